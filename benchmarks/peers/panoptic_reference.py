"""The reference evaluation of panoptic segmentation, transcribed.

Follows the program of Kirillov et al. (`panopticapi`), which is on no package index, step by step:
predictions are PNG files, ids are made of their colours, overlaps are counted with `np.unique`,
segments are matched pair by pair, and images are spread over one process for each core. Names and
arguments are those that Detectron2's `COCOPanopticEvaluator` calls.
"""

import json
import multiprocessing
import os
from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image

VOID = 0
OFFSET = 256**3

Statistics = dict[int, np.ndarray]
"""Of each category: sum of IoU, matches, false positives, false negatives."""


def id2rgb(id_map: np.ndarray) -> np.ndarray:
    """Segment ids (H, W) as colours, uint8 (H, W, 3)."""
    rest = id_map.copy()
    rgb = np.zeros((*id_map.shape, 3), dtype=np.uint8)
    for channel in range(3):
        rgb[..., channel] = rest % 256
        rest //= 256
    return rgb


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """Colours, uint32 (H, W, 3), as segment ids (H, W)."""
    return rgb[:, :, 0] + 256 * rgb[:, :, 1] + 256 * 256 * rgb[:, :, 2]


def image_statistics(
    gt_map: np.ndarray, gt: dict[str, Any], pred_map: np.ndarray, pred: dict[str, Any]
) -> Statistics:
    """Match the segments of one image; `gt` and `pred` are its entries in COCO's JSON files."""
    statistics: Statistics = defaultdict(lambda: np.zeros(4))
    gt_segments = {segment["id"]: segment for segment in gt["segments_info"]}
    pred_segments = {segment["id"]: dict(segment) for segment in pred["segments_info"]}
    for id_, area in zip(*np.unique(pred_map, return_counts=True), strict=True):
        if id_ in pred_segments:
            pred_segments[id_]["area"] = area
        elif id_ != VOID:
            raise KeyError(f"image {gt['image_id']}: segment {id_} is not in the JSON")
    if any("area" not in segment for segment in pred_segments.values()):
        raise KeyError(f"image {gt['image_id']}: a segment of the JSON is not in the PNG")

    pairs = gt_map.astype(np.uint64) * OFFSET + pred_map.astype(np.uint64)
    overlaps = {
        (pair // OFFSET, pair % OFFSET): pixels
        for pair, pixels in zip(*np.unique(pairs, return_counts=True), strict=True)
    }
    gt_matched, pred_matched = set(), set()
    for (gt_id, pred_id), overlap in overlaps.items():
        if gt_id not in gt_segments or pred_id not in pred_segments:
            continue
        gt_segment, pred_segment = gt_segments[gt_id], pred_segments[pred_id]
        if gt_segment["iscrowd"] or gt_segment["category_id"] != pred_segment["category_id"]:
            continue
        union = pred_segment["area"] + gt_segment["area"] - overlap
        iou = overlap / (union - overlaps.get((VOID, pred_id), 0))
        if iou > 0.5:
            statistics[gt_segment["category_id"]] += [iou, 1, 0, 0]
            gt_matched.add(gt_id)
            pred_matched.add(pred_id)

    crowds = {}
    for gt_id, segment in gt_segments.items():
        if segment["iscrowd"]:
            crowds[segment["category_id"]] = gt_id
        elif gt_id not in gt_matched:
            statistics[segment["category_id"]][3] += 1
    for pred_id, segment in pred_segments.items():
        if pred_id in pred_matched:
            continue
        excused = overlaps.get((VOID, pred_id), 0)
        excused += overlaps.get((crowds.get(segment["category_id"]), pred_id), 0)
        if excused / segment["area"] <= 0.5:
            statistics[segment["category_id"]][2] += 1
    return statistics


def folder_statistics(pairs: list[tuple[dict, dict]], gt_folder: str, pred_folder: str) -> dict:
    """The sum of the statistics of pairs of annotation and prediction."""
    total: Statistics = defaultdict(lambda: np.zeros(4))
    for gt, pred in pairs:
        gt_map, pred_map = (
            rgb2id(np.array(Image.open(os.path.join(folder, entry["file_name"])), dtype=np.uint32))
            for folder, entry in ((gt_folder, gt), (pred_folder, pred))
        )
        for category, statistics in image_statistics(gt_map, gt, pred_map, pred).items():
            total[category] += statistics
    return dict(total)


def pq_compute(
    gt_json_file: str,
    pred_json_file: str,
    gt_folder: str,
    pred_folder: str,
    processes: int | None = None,
) -> dict[str, Any]:
    """Quality of the predictions of a JSON file and a folder of PNG files.

    Args:
        processes: None: as many as there are cores; 1: this one.

    Returns:
        "All", "Things" and "Stuff": pq, sq, rq and the number n of categories; "per_class": pq, sq
        and rq of each category.
    """
    with open(gt_json_file) as file:
        gt_json = json.load(file)
    with open(pred_json_file) as file:
        predictions = {entry["image_id"]: entry for entry in json.load(file)["annotations"]}
    pairs = [(entry, predictions[entry["image_id"]]) for entry in gt_json["annotations"]]
    if processes == 1:
        parts = [folder_statistics(pairs, gt_folder, pred_folder)]
    else:
        processes = processes or multiprocessing.cpu_count()
        shares = [pairs[i::processes] for i in range(processes)]
        with multiprocessing.Pool(processes) as pool:
            parts = pool.starmap(folder_statistics, [(s, gt_folder, pred_folder) for s in shares])
    total: Statistics = defaultdict(lambda: np.zeros(4))
    for part in parts:
        for category, statistics in part.items():
            total[category] += statistics
    return _metrics(total, gt_json["categories"])


def _metrics(total: Statistics, categories: list[dict[str, Any]]) -> dict[str, Any]:
    per_class = {}
    for category in categories:
        iou, tp, fp, fn = total[category["id"]]
        number = tp + fp / 2 + fn / 2
        per_class[category["id"]] = {
            "pq": iou / number if number else 0.0,
            "sq": iou / tp if tp else 0.0,
            "rq": tp / number if number else 0.0,
        }
    results: dict[str, Any] = {"per_class": per_class}
    for name, isthing in (("All", (0, 1)), ("Things", (1,)), ("Stuff", (0,))):
        group = [
            per_class[category["id"]]
            for category in categories
            if category["isthing"] in isthing and total[category["id"]][1:].any()
        ]
        results[name] = {key: np.mean([c[key] for c in group]) for key in ("pq", "sq", "rq")}
        results[name]["n"] = len(group)
    return results
