"""COCO's average precision of instances."""

import contextlib
import io
import itertools
import logging
import os
from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_former.data.writing import write_json
from mask_former.errors import MissingFileError, UserError
from mask_former.evaluation.report import class_table, score_table

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_IOU_TYPES = ("bbox", "segm")


class InstanceEvaluator(DatasetEvaluator):
    """AP of boxes and of masks, over the categories of the data set's COCO instances JSON.

    The metrics are those of Detectron2's `COCOEvaluator`, which cannot evaluate panoptic data sets:
    it asserts that the contiguous ids of the things are 0, 1, ... (those of ADE20K are 100 of 150),
    and that all predictions are things. It also counts an image twice that two processes have
    evaluated, and has NaN instead of AP 0 for a model that finds nothing.

    It reads `output["instances"]` with `pred_masks`, `pred_boxes`, `scores` and `pred_classes`
    (contiguous). Instances of stuff classes are left out.

    Args:
        dataset_name: its metadata name `json_file`.
        output_folder: where `instances.json` is saved, in COCO's result format. None: nothing is
            saved.

    Raises:
        ValueError: the metadata lack `json_file`.
    """

    accepts_label_maps = True  # it reads no semantic output

    def __init__(self, dataset_name: str, output_folder: str | None = None) -> None:
        self._dataset_name = dataset_name
        self._output_folder = output_folder
        self._metadata = MetadataCatalog.get(dataset_name)
        if not self._metadata.get("json_file"):
            raise UserError(f"the metadata of {dataset_name} lack `json_file`, which AP needs")
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # The instances of each image, in COCO's result format.
        self._images: dict[Hashable, list[dict[str, Any]]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of some images, masks run-length encoded.

        Raises:
            ValueError: the JSON lacks an image, or a category of the metadata.
        """
        category_ids = self._category_ids
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            if image_id not in self._coco.imgs:
                raise UserError(
                    f"{self._metadata.json_file} has no image {image_id!r} "
                    f"({record.get('file_name')})"
                )
            results = instances_to_coco_json(output["instances"].to("cpu"), image_id)
            self._images[image_id] = [
                {**result, "category_id": category_ids[result["category_id"]]}
                for result in results
                if result["category_id"] in category_ids
            ]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather from the processes; only the main process returns the metrics.

        Returns:
            {"bbox": metrics, "segm": metrics}, in percent: AP, AP50, AP75, APs, APm, APl and
            AP-NAME of every category; NaN where nothing is annotated.
        """
        parts = comm.gather(self._images)
        if not comm.is_main_process():
            return None
        images = {image_id: results for part in parts for image_id, results in part.items()}
        if len(images) < len(self._coco.imgs):
            logger.warning(
                "%s: predictions for %d of %d images; AP counts the others as missed.",
                self._dataset_name,
                len(images),
                len(self._coco.imgs),
            )
        results = list(itertools.chain(*(images[image_id] for image_id in sorted(images))))
        if self._output_folder:
            write_json(os.path.join(self._output_folder, "instances.json"), results)
        return {iou_type: self._average_precision(results, iou_type) for iou_type in _IOU_TYPES}

    def _average_precision(self, results: list[dict[str, Any]], iou_type: str) -> dict[str, float]:
        results = [result.copy() for result in results]  # pycocotools changes them
        if iou_type == "segm":
            # With a box, its area would decide what is small, medium and large.
            for result in results:
                del result["bbox"]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco, self._load_results(results), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        metrics = dict(zip(_METRICS, map(_percent, evaluation.stats), strict=False))
        # (IoU, recall, category, area, detections): all areas, up to 100 detections an image.
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        names = [self._coco.cats[id_]["name"] for id_ in evaluation.params.catIds]
        of_class = {
            # -1: nothing of this category is annotated
            name: _percent(precision[:, :, index].mean())
            for index, name in enumerate(names)
        }
        logger.info("AP of %s:\n%s", iou_type, score_table([list(metrics.values())], _METRICS))
        logger.info("AP of %s by class:\n%s", iou_type, class_table(of_class, "AP"))
        return {**metrics, **{f"AP-{name}": value for name, value in of_class.items()}}

    def _load_results(self, results: list[dict[str, Any]]) -> COCO:
        if results:
            return self._coco.loadRes(results)
        nothing = COCO()  # loadRes fails on an empty list
        nothing.dataset = {**self._coco.dataset, "annotations": []}
        nothing.createIndex()
        return nothing

    @cached_property
    def _coco(self) -> COCO:
        path = PathManager.get_local_path(self._metadata.json_file)
        if not os.path.isfile(path):
            raise MissingFileError(
                f"the instance annotations of {self._dataset_name} are missing: {path}"
            )
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(path)

    @cached_property
    def _category_ids(self) -> dict[int, int]:
        """Category id of the JSON by contiguous id."""
        categories = sorted(self._coco.cats)
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id") or {
            category: index for index, category in enumerate(categories)
        }
        unknown = sorted(set(to_contiguous) - set(categories))
        if unknown:
            raise UserError(
                f"{self._metadata.json_file} lacks the categories {unknown}, which "
                f"thing_dataset_id_to_contiguous_id of {self._dataset_name} names"
            )
        return {contiguous: category for category, contiguous in to_contiguous.items()}


def _percent(value: float | np.floating) -> float:
    """In percent; NaN for COCO's -1, no value."""
    return 100 * float(value) if value > -1 else float("nan")
