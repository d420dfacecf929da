"""COCO's average precision of instances."""

import contextlib
import io
import logging
import os
from collections.abc import Collection, Hashable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_former.data.coco_json import CocoFile, read_instances
from mask_former.data.records import Record, image_size, load_records, required_field
from mask_former.data.writing import write_json
from mask_former.errors import MissingFileError, NonFiniteError, UserError
from mask_former.evaluation.evaluator import Evaluator, gathered
from mask_former.evaluation.tables import class_table, score_table

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_IOU_TYPES = ("bbox", "segm")
_ANNOTATION_KEYS = ("iscrowd", "area", "bbox", "segmentation")


class InstanceEvaluator(Evaluator):
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
        UserError: the metadata lack `json_file`.
    """

    def __init__(self, dataset_name: str, output_folder: str | None = None) -> None:
        super().__init__(dataset_name, "json_file", metric="AP")
        self._output_folder = output_folder
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # The instances of each image, in COCO's result format.
        self._images: dict[Hashable, list[dict[str, Any]]] = {}

    def check_ground_truth(self) -> None:
        """Read the annotation, and compare it with the records.

        Raises:
            FileNotFoundError, UserError: what `process` would raise later.
        """
        _ = self._category_ids  # reads them
        for record in load_records(self._dataset_name):
            image = self._file.images.get(required_field(record, "image_id"))
            self._check_image(image, record)
            own, size = (image["height"], image["width"]), image_size(record)
            if size not in (None, own):
                raise UserError(
                    f"{self._metadata.json_file} says that image {record['image_id']!r} is "
                    f"{own[1]} x {own[0]} (width x height), but its record says "
                    f"{size[1]} x {size[0]}. Do its annotation files belong together?"
                )

    def _check_image(self, image: dict[str, Any] | None, record: Record) -> None:
        if image is None:
            raise UserError(
                f"{self._metadata.json_file} has no image {record['image_id']!r} "
                f"({record.get('file_name')})"
            )

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of some images, masks run-length encoded.

        Raises:
            UserError: the JSON lacks an image, or a category of the metadata; masks of another size
                than it says.
        """
        category_ids = self._category_ids
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            image = self._file.images.get(image_id)
            self._check_image(image, record)
            instances = output["instances"].to("cpu")
            found, size = tuple(instances.pred_masks.shape[1:]), (image["height"], image["width"])
            if found != size:
                raise UserError(
                    f"image {record.get('file_name')}, ground truth {self._metadata.json_file}: "
                    f"the masks have height and width {found}, the ground truth {size}"
                )
            if not bool(instances.scores.isfinite().all()):
                raise NonFiniteError(
                    f"image {record.get('file_name')}: scores are NaN or infinite: are the weights "
                    "sound?"
                )
            results = instances_to_coco_json(instances, image_id)
            self._images[image_id] = [
                {**result, "category_id": category_ids[result["category_id"]]}
                for result in results
                if result["category_id"] in category_ids
            ]

    @property
    def images(self) -> Mapping[Hashable, dict[str, Any]]:
        """The annotated images, by id."""
        return self._file.images

    @property
    def categories(self) -> Collection[Hashable]:
        """The ids of the annotated categories."""
        return self._category_numbers.keys()

    def add(self, results: Mapping[Hashable, list[dict[str, Any]]]) -> None:
        """Add predictions in COCO's result format, with masks as run lengths, by image id."""
        self._images.update(results)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather from the processes; only the main process returns the metrics.

        Returns:
            {"bbox": metrics, "segm": metrics}, in percent: AP, AP50, AP75, APs, APm, APl and
            AP-NAME of every category; NaN where nothing is annotated.
        """
        images = gathered(self._images)
        if not comm.is_main_process():
            return None
        self._warn_of_missing(len(images), len(self._file.images), "AP counts the others as missed")
        results = [result for image_id in sorted(images) for result in images[image_id]]
        if self._output_folder:
            write_json(os.path.join(self._output_folder, "instances.json"), results)
        return {iou_type: self._average_precision(results, iou_type) for iou_type in _IOU_TYPES}

    def _average_precision(self, results: list[dict[str, Any]], iou_type: str) -> dict[str, float]:
        results = [{**result, **self._numbered(result)} for result in results]
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
    def _file(self) -> CocoFile:
        try:
            return read_instances(self._metadata.json_file)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"the instance annotations of {self._dataset_name} are missing: "
                f"{self._metadata.json_file}"
            ) from error

    @cached_property
    def _image_numbers(self) -> dict[Hashable, int]:
        """The number of each image id for pycocotools, in the order of the ids."""
        return {id_: number for number, id_ in enumerate(sorted(self._file.images), start=1)}

    @cached_property
    def _category_numbers(self) -> dict[Hashable, int]:
        """The number of each category id for pycocotools, in the order of the ids."""
        ids = sorted(category["id"] for category in self._file.categories)
        return {id_: number for number, id_ in enumerate(ids, start=1)}

    @cached_property
    def _coco(self) -> COCO:
        """The ground truth, numbered from 1: to pycocotools the id 0 means no match, and ids that
        are no numbers have no order."""
        names = {category["id"]: category["name"] for category in self._file.categories}
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": number, **{key: self._file.images[id_][key] for key in ("height", "width")}}
                for id_, number in self._image_numbers.items()
            ],
            "categories": [
                {"id": number, "name": names[id_]} for id_, number in self._category_numbers.items()
            ],
            # Copies, since pycocotools changes them.
            "annotations": [
                {
                    **{key: annotation[key] for key in _ANNOTATION_KEYS},
                    **self._numbered(annotation),
                    "id": number,
                }
                for number, annotation in enumerate(self._file.annotations, start=1)
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _numbered(self, entry: dict[str, Any]) -> dict[str, int]:
        """The image and the category of an annotation or a result, for pycocotools."""
        return {
            "image_id": self._image_numbers[entry["image_id"]],
            "category_id": self._category_numbers[entry["category_id"]],
        }

    @cached_property
    def _category_ids(self) -> dict[int, Hashable]:
        """Category id of the JSON by contiguous id."""
        categories = list(self._category_numbers)
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id") or {
            category: index for index, category in enumerate(categories)
        }
        if unknown := [id_ for id_ in to_contiguous if id_ not in self._category_numbers]:
            raise UserError(
                f"{self._metadata.json_file} lacks the categories {unknown}, which "
                f"thing_dataset_id_to_contiguous_id of {self._dataset_name} names"
            )
        return {contiguous: category for category, contiguous in to_contiguous.items()}


def _percent(value: float | np.floating) -> float:
    """In percent; NaN for COCO's -1, no value."""
    return 100 * float(value) if value > -1 else float("nan")
