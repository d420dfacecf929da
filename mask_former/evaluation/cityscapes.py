"""The average precision of Cityscapes' instance task, without its scripts."""

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.utils import comm

from mask_former.data.reading import read_labels
from mask_former.data.records import Record, load_records
from mask_former.errors import UserError
from mask_former.evaluation.evaluator import Evaluator, gathered
from mask_former.evaluation.tables import class_table, mean_or_nan, score_table

logger = logging.getLogger(__name__)

IMAGE_SUFFIX = "_leftImg8bit.png"
INSTANCE_SUFFIX = "_gtFine_instanceIds.png"
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
"""The overlaps that AP is averaged over; a match has to exceed them."""
MIN_AREA = 100
"""Smaller annotated instances (pixels) need not be found."""

_LABEL_IDS = {category["name"]: category["id"] for category in CITYSCAPES_CATEGORIES}
_THINGS = [category["name"] for category in CITYSCAPES_CATEGORIES if category["isthing"]]


class Matches(NamedTuple):
    """The P predicted and G annotated instances of one class in one image.

    Attributes:
        scores: of the predictions, (P,).
        iou: of each prediction with each annotated instance, (P, G).
        required: whether an annotated instance has to be found, bool (G,): it is neither a group
            of indistinct objects nor too small.
        ignored: the share of each prediction that lies on pixels that are not evaluated, (P,).
    """

    scores: np.ndarray
    iou: np.ndarray
    required: np.ndarray
    ignored: np.ndarray


class CityscapesInstanceEvaluator(Evaluator):
    """AP of masks by the definition of Cityscapes, which is not that of COCO.

    Precision and recall change only where the score does, their curve is integrated by trapezoids,
    and predictions in groups or on ignored pixels are no false positives. The metrics equal those
    of cityscapesscripts, which is not needed (it fails with NumPy 2.4, and reads predictions from
    files).

    It reads `output["instances"]` with `pred_masks`, `scores` and `pred_classes` (contiguous).

    Args:
        dataset_name: its metadata name `gt_dir`, with CITY/*_gtFine_instanceIds.png, and
            `thing_classes`.

    Raises:
        UserError: the metadata lack one of these.
    """

    def __init__(self, dataset_name: str) -> None:
        super().__init__(dataset_name, "gt_dir", "thing_classes", metric="AP")
        self._gt_dir = Path(self._metadata.gt_dir)
        self._class_names = list(self._metadata.thing_classes)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # Of each annotation file, by class name.
        self._images: dict[str, dict[str, Matches]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the predictions of some images with their ground truth.

        Raises:
            FileNotFoundError: no ground truth of that image.
            UserError: masks of another size than the ground truth.
        """
        for record, output in zip(inputs, outputs, strict=True):
            gt_file = self._gt_file(record)
            gt_map = read_labels(gt_file).astype(np.int64)
            instances = output["instances"].to("cpu")
            masks = instances.pred_masks.numpy().astype(bool)
            if masks.shape[1:] != gt_map.shape:
                raise UserError(
                    f"image {record['file_name']}, ground truth {gt_file}: the masks have height "
                    f"and width {masks.shape[1:]}, the ground truth {gt_map.shape}"
                )
            classes = [self._class_names[index] for index in instances.pred_classes.tolist()]
            self._images[gt_file] = match(masks, classes, instances.scores.numpy(), gt_map)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather from the processes; only the main process returns the metrics.

        Returns:
            {"segm": AP, AP50, and AP-NAME of every class}, in percent; NaN where nothing is
            annotated.
        """
        images = gathered(self._images)
        if not comm.is_main_process():
            return None
        total = len(list(self._gt_dir.glob(f"*/*{INSTANCE_SUFFIX}")))
        self._warn_of_missing(len(images), total, "AP is over these only")
        matches = {name: [image[name] for image in images.values()] for name in _THINGS}
        precision = 100 * np.array(
            [[average_precision(matches[name], t) for name in _THINGS] for t in THRESHOLDS]
        )
        of_class = dict(zip(_THINGS, precision.mean(axis=0).tolist(), strict=True))
        annotated = ~np.isnan(precision[0])
        metrics = {
            "AP": mean_or_nan(precision[:, annotated]),
            "AP50": mean_or_nan(precision[0, annotated]),
        }
        logger.info("AP of Cityscapes:\n%s", score_table([list(metrics.values())], list(metrics)))
        logger.info("AP by class:\n%s", class_table(of_class, "AP"))
        return {"segm": {**metrics, **{f"AP-{name}": value for name, value in of_class.items()}}}

    @cached_property
    def _ground_truth(self) -> dict[str, Record]:
        return {record["file_name"]: record for record in load_records(self._dataset_name)}

    def _read(self, record: Record) -> None:
        read_labels(self._gt_file(record))

    def _gt_file(self, record: Record) -> str:
        city, name = Path(record["file_name"]).parts[-2:]
        return os.path.join(self._gt_dir, city, name.replace(IMAGE_SUFFIX, INSTANCE_SUFFIX))


def match(
    masks: np.ndarray, classes: Sequence[str], scores: np.ndarray, gt_map: np.ndarray
) -> dict[str, Matches]:
    """Overlaps of the predicted and annotated instances of an image, by class name.

    Args:
        masks: of the predictions, bool (N, H, W); empty ones are left out.
        classes: names of their classes, (N,).
        scores: (N,).
        gt_map: Cityscapes' instance ids, integers (H, W): 1000 * label + number; label alone for
            groups, for classes without instances, and for what is not evaluated.
    """
    gt_area = np.bincount(gt_map.ravel())
    gt_ids = np.flatnonzero(gt_area)
    gt_area = gt_area[gt_ids]
    segment_of = np.zeros(gt_ids[-1] + 1, dtype=np.intp)
    segment_of[gt_ids] = np.arange(len(gt_ids))
    segments = segment_of[gt_map]
    overlap = np.array([np.bincount(segments[mask], minlength=len(gt_ids)) for mask in masks])
    overlap = overlap.reshape(-1, len(gt_ids))
    area = overlap.sum(axis=1)

    is_group = gt_ids < 1000
    labels = np.where(is_group, gt_ids, gt_ids // 1000)
    is_void = is_group & ~np.isin(labels, list(_LABEL_IDS.values()))
    result = {}
    for name in _THINGS:
        found = np.flatnonzero((np.array(classes, dtype=object) == name) & (area > 0))
        of_class = labels == _LABEL_IDS[name]
        small = gt_area < MIN_AREA
        both = overlap[found][:, of_class]
        union = area[found, None] + gt_area[of_class] - both
        # A group that is too small counts twice in cityscapesscripts, so it does here.
        unjudged = is_void + of_class * (is_group.astype(int) + small)
        result[name] = Matches(
            scores=scores[found].astype(np.float64),
            iou=both / union,
            required=~(is_group | small)[of_class],
            ignored=overlap[found] @ unjudged / area[found],
        )
    return result


def average_precision(images: Sequence[Matches], threshold: float) -> float:
    """The area under the curve of precision over recall, for one class, in [0, 1].

    Args:
        images: the instances of all images.
        threshold: matches are overlaps above this, at least 0.5 so that they are unique.

    Returns:
        NaN if nothing has to be found.
    """
    scores, correct = [], []
    for image in images:
        hit = image.iou > threshold
        for hits in hit[:, image.required].T:
            # Of several predictions of one instance, the most confident is the true positive.
            matched = np.sort(image.scores[hits])[::-1]
            scores.append(matched)
            correct.append(np.arange(len(matched)) == 0)
        wrong = ~hit.any(axis=1) & (image.ignored <= threshold)
        scores.append(image.scores[wrong])
        correct.append(np.zeros(wrong.sum(), dtype=bool))
    total = sum(int(image.required.sum()) for image in images)
    if total == 0:
        return float("nan")

    scores, correct = np.concatenate(scores), np.concatenate(correct)
    order = np.argsort(-scores)
    scores, correct = scores[order], correct[order]
    # The curve has one point for equal scores.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))[: len(scores)]
    true_positives = np.cumsum(correct)[last]
    precision = np.append(1.0, true_positives / (last + 1))
    recall = np.append(0.0, true_positives / total)
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())
