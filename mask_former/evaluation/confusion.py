"""The confusion matrix of semantic segmentation, and its metrics."""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from mask_former.data.label_map import run_lengths
from mask_former.errors import UserError
from mask_former.evaluation.panoptic_quality import (
    VOID,
    PanopticQuality,
    check_maps,
    overlap_statistics,
)
from mask_former.evaluation.tables import mean_or_nan


class ConfusionMatrix:
    """Counts pixels by predicted and by annotated class.

    Counts are kept by image, so that an image counts once however often it is added and however
    the images are spread over processes.

    Args:
        num_classes: K.
        ignore_label: label of annotated pixels that do not count.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        # Of each image: the cells of its table (K + 1, K + 1) that are not zero, and their counts.
        # Rows are annotated, columns predicted: void, then the classes.
        self._images: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def update(self, image_id: Hashable, pred: np.ndarray, gt: np.ndarray) -> None:
        """Add an image.

        Args:
            image_id: its name.
            pred: predicted classes in [0, K), integers (H, W).
            gt: annotated classes in [0, K) or the ignore label, integers (H, W).

        Raises:
            UserError: maps of different sizes, labels out of range or not integers.
        """
        check_maps(pred, gt)
        (pred, gt), lengths = run_lengths(pred, gt)
        ignored = gt == self.ignore_label
        self._check("prediction", pred, None)
        self._check("ground truth", gt, ignored)
        index = gt.astype(np.int64)  # labels of few bits would wrap
        index += 1
        index[ignored] = VOID
        index *= self.num_classes + 1
        index += pred
        index += 1
        if (self.num_classes + 1) ** 2 > 10 * len(index):
            # Sorting costs less than a table of many classes that is nearly empty.
            cells, index = np.unique(index, return_inverse=True)
            counts = np.bincount(index, lengths)
        else:
            counts = np.bincount(index, lengths)
            cells = np.flatnonzero(counts)
            counts = counts[cells]
        self._images[image_id] = cells, counts.astype(np.int64)

    def _check(self, what: str, labels: np.ndarray, ignored: np.ndarray | None) -> None:
        if labels.min() >= 0 and labels.max() < self.num_classes:
            return
        wrong = (labels < 0) | (labels >= self.num_classes)
        if ignored is not None:
            wrong &= ~ignored
        if wrong.any():
            raise UserError(
                f"the {what} has labels {np.unique(labels[wrong]).tolist()}; "
                f"they must lie in [0, {self.num_classes})"
                + ("" if ignored is None else f" or be {self.ignore_label}")
            )

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Add the images of `other`, which another process has seen; returns self."""
        self._images.update(other._images)
        return self

    def counts(self) -> np.ndarray:
        """Pixels of all images by predicted (rows) and annotated class, int64 (K, K)."""
        size = self.num_classes + 1
        total = np.zeros(size**2, dtype=np.int64)
        for cells, counts in self._images.values():
            total[cells] += counts
        return total.reshape(size, size)[1:, 1:].T

    def quality(self) -> PanopticQuality:
        """Panoptic quality with all classes as stuff: in an image, the pixels of a class are one
        segment."""
        quality = PanopticQuality([False] * self.num_classes)
        for image_id, (cells, counts) in self._images.items():
            gt, pred = np.divmod(cells, self.num_classes + 1)
            rows, columns = np.union1d(VOID, gt), np.union1d(VOID, pred)
            overlap = np.zeros((len(rows), len(columns)), dtype=np.int64)
            overlap[np.searchsorted(rows, gt), np.searchsorted(columns, pred)] = counts
            statistics = overlap_statistics(
                overlap, columns[1:] - 1, rows[1:] - 1, self.num_classes
            )
            quality.add(image_id, statistics)
        return quality

    def compute(self, class_names: Sequence[str]) -> dict[str, float]:
        """The metrics by the names and conventions of Detectron2's `SemSegEvaluator`, in percent.

        Args:
            class_names: of the K classes.

        Returns:
            mIoU, fwIoU (weighted by the frequency of the classes), IoU-NAME of every class,
            mACC, pACC (share of correct pixels), ACC-NAME of every class. Classes without an
            annotated pixel are NaN and left out of the averages.
        """
        counts = self.counts().astype(np.float64)
        correct, pred_area, gt_area = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        occurs = gt_area > 0
        # Dividing by zero gives NaN: the class has no IoU.
        with np.errstate(invalid="ignore"):
            acc = correct / gt_area
            iou = np.where(occurs, correct / (pred_area + gt_area - correct), np.nan)
            weights = gt_area / gt_area.sum()
            return {
                "mIoU": 100 * mean_or_nan(iou[occurs]),
                "fwIoU": 100 * float(np.nansum(iou * weights)) if occurs.any() else math.nan,
                **_by_class("IoU", class_names, iou),
                "mACC": 100 * mean_or_nan(acc[occurs]),
                "pACC": 100 * float(correct.sum() / gt_area.sum()),
                **_by_class("ACC", class_names, acc),
            }


def _by_class(metric: str, class_names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {
        f"{metric}-{name}": 100 * float(value)
        for name, value in zip(class_names, values, strict=True)
    }
