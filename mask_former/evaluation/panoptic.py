"""Panoptic quality over a data set."""

import json
import logging
import os
from collections.abc import Hashable
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from mask_former.data.classes import contiguous_ids
from mask_former.data.reading import read_ids
from mask_former.data.writing import write_json
from mask_former.errors import MissingFileError, UserError
from mask_former.evaluation.panoptic_quality import PanopticQuality, SegmentInfo
from mask_former.evaluation.report import class_table, score_table
from mask_former.evaluation.results import categories, save_panoptic

logger = logging.getLogger(__name__)


class _GroundTruth(NamedTuple):
    file_name: str
    segments: list[SegmentInfo]


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of a data set in COCO's panoptic format, computed while predictions stream in.

    It reads `output["panoptic_seg"]`: a map of segment ids, integers (H, W) on any device, 0
    where nothing is predicted; and its segments, `id` and `category_id` (contiguous).

    Args:
        dataset_name: its metadata name `panoptic_json`, `panoptic_root`, the classes and the
            contiguous ids.
        output_folder: where the predictions are saved in COCO's format, `panoptic.json` and the
            folder `panoptic` of PNG files; shared by all processes. None: nothing is saved.

    Raises:
        ValueError: the metadata lack one of these, or do not give every class one contiguous id.
    """

    accepts_label_maps = True  # it reads no semantic output

    def __init__(self, dataset_name: str, output_folder: str | None = None) -> None:
        self._dataset_name = dataset_name
        self._output_folder = output_folder
        self._metadata = MetadataCatalog.get(dataset_name)
        for key in ("panoptic_json", "panoptic_root", "stuff_classes"):
            if not self._metadata.get(key):
                raise UserError(f"the metadata of {dataset_name} lack `{key}`, which PQ needs")
        self._class_names = list(self._metadata.stuff_classes)
        things = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        self._contiguous_ids = contiguous_ids(self._metadata)
        if sorted(self._contiguous_ids.values()) != list(range(len(self._class_names))):
            raise UserError(
                f"{dataset_name}: thing_dataset_id_to_contiguous_id and "
                "stuff_dataset_id_to_contiguous_id must give each of the "
                f"{len(self._class_names)} stuff_classes one id in "
                f"[0, {len(self._class_names)}), things and stuff together; "
                f"they give {sorted(self._contiguous_ids.values())}"
            )
        self._is_thing = np.isin(np.arange(len(self._class_names)), list(things.values()))
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._quality = PanopticQuality(self._is_thing)
        # The entry of each image in `panoptic.json`.
        self._saved: dict[Hashable, dict[str, Any]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the predictions of some images with their ground truth.

        Raises:
            ValueError: an image without ground truth; maps and lists of segments, or sizes, that
                disagree. The message names the file.
        """
        for record, output in zip(inputs, outputs, strict=True):
            gt = self._ground_truth.get(record["image_id"])
            if gt is None:
                raise UserError(
                    f"{self._metadata.panoptic_json} has no annotation of image "
                    f"{record['image_id']!r} ({record.get('file_name')})"
                )
            pred_map, pred_segments = output["panoptic_seg"]
            pred_map = pred_map.cpu().numpy()
            gt_map = read_ids(gt.file_name)
            try:
                self._quality.update(
                    record["image_id"], pred_map, pred_segments, gt_map, gt.segments
                )
            except UserError as error:
                raise UserError(
                    f"image {record.get('file_name')}, ground truth {gt.file_name}: {error}"
                ) from error
            if self._output_folder:
                self._save(record["image_id"], pred_map, pred_segments)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Reduce over the processes; only the main process returns the metrics.

        Returns:
            {"panoptic_seg": PQ, SQ, RQ, PQ_th, SQ_th, RQ_th, PQ_st, SQ_st, RQ_st}, in percent.
        """
        parts = comm.gather(self._quality)
        saved = comm.gather(self._saved)
        if not comm.is_main_process():
            return None
        quality = reduce(PanopticQuality.merge, parts)
        if len(quality) < len(self._ground_truth):
            logger.warning(
                "%s: predictions for %d of %d images; PQ is over these only.",
                self._dataset_name,
                len(quality),
                len(self._ground_truth),
            )
        if self._output_folder:
            self._write_json({key: entry for part in saved for key, entry in part.items()})
        metrics = quality.compute()
        _log(metrics, dict(zip(self._class_names, 100 * quality.per_class().pq, strict=True)))
        return {"panoptic_seg": metrics}

    def _save(self, image_id: Hashable, pred_map: np.ndarray, segments: list[SegmentInfo]) -> None:
        name = os.path.basename(self._ground_truth[image_id].file_name)
        path = os.path.join(self._output_folder, "panoptic", name)
        saved = save_panoptic(path, pred_map, segments, self._metadata)
        self._saved[image_id] = {"image_id": image_id, "file_name": name, "segments_info": saved}

    def _write_json(self, saved: dict[Hashable, dict[str, Any]]) -> None:
        annotations = [saved[image_id] for image_id in sorted(saved, key=str)]
        content = {"annotations": annotations, "categories": categories(self._metadata)}
        write_json(os.path.join(self._output_folder, "panoptic.json"), content)

    @cached_property
    def _ground_truth(self) -> dict[Hashable, _GroundTruth]:
        """PNG and segments (classes contiguous) of each image."""
        path = PathManager.get_local_path(self._metadata.panoptic_json)
        try:
            with open(path) as file:
                annotations = json.load(file)["annotations"]
        except FileNotFoundError:
            raise MissingFileError(
                f"the panoptic annotations of {self._dataset_name} are missing: {path}"
            ) from None
        root = PathManager.get_local_path(self._metadata.panoptic_root)
        return {
            annotation["image_id"]: _GroundTruth(
                os.path.join(root, annotation["file_name"]),
                [self._contiguous(segment) for segment in annotation["segments_info"]],
            )
            for annotation in annotations
        }

    def _contiguous(self, segment: SegmentInfo) -> SegmentInfo:
        try:
            category = self._contiguous_ids[segment["category_id"]]
        except KeyError:
            raise UserError(
                f"{self._metadata.panoptic_json}: segment {segment['id']} has category "
                f"{segment['category_id']}, which the metadata of {self._dataset_name} lack"
            ) from None
        return {**segment, "category_id": category}


def _log(metrics: dict[str, float], pq_of_class: dict[str, float]) -> None:
    groups = (("all", ""), ("things", "_th"), ("stuff", "_st"))
    rows = [[name] + [metrics[m + suffix] for m in ("PQ", "SQ", "RQ")] for name, suffix in groups]
    logger.info("Panoptic quality:\n%s", score_table(rows, ["", "PQ", "SQ", "RQ"]))
    logger.info("Panoptic quality by class:\n%s", class_table(pq_of_class, "PQ"))
