"""Panoptic quality over a data set."""

import logging
import os
from collections.abc import Hashable
from functools import cached_property, reduce
from typing import Any

import numpy as np
from detectron2.utils import comm

from mask_former.data.classes import contiguous_ids
from mask_former.data.coco_format import image_entry
from mask_former.data.reading import read_ids, read_size
from mask_former.data.records import Record, image_size, read_segment_map
from mask_former.errors import UserError, prefixed
from mask_former.evaluation.evaluator import Evaluator, gathered
from mask_former.evaluation.panoptic_quality import PanopticQuality, SegmentInfo, invisible_segments
from mask_former.evaluation.results import relative_names, save_panoptic, write_result
from mask_former.evaluation.tables import class_table, score_table

logger = logging.getLogger(__name__)


class PanopticEvaluator(Evaluator):
    """PQ, SQ and RQ of a data set in COCO's panoptic format, computed while predictions stream in.

    It reads `output["panoptic_seg"]`: a map of segment ids, integers (H, W) on any device, 0
    where nothing is predicted; and its segments, `id` and `category_id` (contiguous).

    Args:
        dataset_name: its metadata name `stuff_classes` (all K classes) and their contiguous ids;
            its records, `pan_seg_file_name` and `segments_info`.
        output_folder: where the predictions are saved in COCO's format, `panoptic.json` and the
            folder `panoptic` of PNG files; shared by all processes. None: nothing is saved.

    Raises:
        UserError: the metadata lack one of these, or do not give every class one contiguous id.
    """

    def __init__(self, dataset_name: str, output_folder: str | None = None) -> None:
        super().__init__(dataset_name, "stuff_classes", metric="PQ")
        self._output_folder = output_folder
        self._class_names = list(self._metadata.stuff_classes)
        things = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        ids = sorted(contiguous_ids(self._metadata).values())
        if ids != list(range(len(self._class_names))):
            raise UserError(
                f"{dataset_name}: thing_dataset_id_to_contiguous_id and "
                "stuff_dataset_id_to_contiguous_id must give each of the "
                f"{len(self._class_names)} stuff_classes one id in "
                f"[0, {len(self._class_names)}), things and stuff together; "
                f"they give {ids}"
            )
        self._is_thing = np.isin(np.arange(len(self._class_names)), list(things.values()))
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._quality = PanopticQuality(self._is_thing)
        # How many annotated segments of each image have no pixel.
        self._invisible: dict[Hashable, int] = {}
        # The two entries of each image in `panoptic.json`: in its images, and its annotation.
        self._saved: dict[Hashable, tuple[dict[str, Any], dict[str, Any]]] = {}

    def _read(self, record: Record) -> None:
        size = image_size(record) or read_size(record["pan_seg_file_name"])
        read_segment_map(record, size, len(self._class_names))

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the predictions of some images with their ground truth.

        Raises:
            FileNotFoundError: no ground truth file.
            UserError: an image without ground truth, or with a broken file; maps and lists of
                segments, or sizes, that disagree. The message names the file.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            gt = self._ground_truth.get(image_id)
            if gt is None:
                raise UserError(
                    f"{record.get('file_name')}: no record of {self._dataset_name} has the "
                    f"image_id {image_id!r} and a `pan_seg_file_name`"
                )
            pred_map, pred_segments = output["panoptic_seg"]
            pred_map = pred_map.cpu().numpy()
            gt_map = read_ids(gt["pan_seg_file_name"])
            place = f"image {record.get('file_name')}, ground truth {gt['pan_seg_file_name']}: "
            with prefixed(place):
                self._quality.update(image_id, pred_map, pred_segments, gt_map, gt["segments_info"])
            self._invisible[image_id] = invisible_segments(gt_map, gt["segments_info"])
            if self._output_folder:
                self._save(image_id, pred_map, pred_segments)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Reduce over the processes; only the main process returns the metrics.

        Returns:
            {"panoptic_seg": PQ, SQ, RQ, PQ_th, SQ_th, RQ_th, PQ_st, SQ_st, RQ_st}, in percent.
        """
        parts = comm.gather(self._quality)
        saved = gathered(self._saved)
        invisible = gathered(self._invisible)
        if not comm.is_main_process():
            return None
        quality = reduce(PanopticQuality.merge, parts)
        self._warn_of_missing(len(quality), len(self._ground_truth), "PQ is over these only")
        if count := sum(invisible.values()):
            logger.warning(
                "%s: %d segments are listed in the annotation, but have no pixel in its PNG; PQ "
                "counts them as missed.",
                self._dataset_name,
                count,
            )
        if self._output_folder:
            entries = (saved[image_id] for image_id in sorted(saved, key=str))
            write_result(self._output_folder, "panoptic", entries, self._metadata)
        metrics = quality.compute()
        _log(metrics, dict(zip(self._class_names, 100 * quality.per_class().pq, strict=True)))
        return {"panoptic_seg": metrics}

    def _save(self, image_id: Hashable, pred_map: np.ndarray, segments: list[SegmentInfo]) -> None:
        name = self._names[image_id]
        path = os.path.join(self._output_folder, "panoptic", name)
        saved = save_panoptic(path, pred_map, segments, self._metadata)
        self._saved[image_id] = (
            image_entry(image_id, self._image_names[image_id], pred_map.shape),
            {"image_id": image_id, "file_name": name, "segments_info": saved},
        )

    @cached_property
    def _names(self) -> dict[Hashable, str]:
        """Where each image's prediction is saved, relative to the folder of all."""
        files = {id_: gt["pan_seg_file_name"] for id_, gt in self._ground_truth.items()}
        return _relative(files, self._metadata.get("panoptic_root"))

    @cached_property
    def _image_names(self) -> dict[Hashable, str]:
        """Each image's file, relative to the folder of all."""
        files = {id_: gt["file_name"] for id_, gt in self._ground_truth.items()}
        return _relative(files, self._metadata.get("image_root"))

    @cached_property
    def _ground_truth(self) -> dict[Hashable, Record]:
        """The record of each image id, which names the PNG and its segments."""
        return self._records_by("image_id", "pan_seg_file_name")


def _relative(files: dict[Hashable, str], root: str | None) -> dict[Hashable, str]:
    return dict(zip(files, relative_names(list(files.values()), root), strict=True))


def _log(metrics: dict[str, float], pq_of_class: dict[str, float]) -> None:
    groups = (("all", ""), ("things", "_th"), ("stuff", "_st"))
    rows = [[name] + [metrics[m + suffix] for m in ("PQ", "SQ", "RQ")] for name, suffix in groups]
    logger.info("Panoptic quality:\n%s", score_table(rows, ["", "PQ", "SQ", "RQ"]))
    logger.info("Panoptic quality by class:\n%s", class_table(pq_of_class, "PQ"))
