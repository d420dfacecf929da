"""The confusion matrix of semantic segmentation, and the figures that are made of it."""

from collections.abc import Hashable, Sequence

import numpy as np


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
        # Of each image: the cells of the (K, K) matrix that are not zero, and their counts.
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
            ValueError: maps of different sizes, labels out of range or not integers.
        """
        if pred.shape != gt.shape:
            raise ValueError(
                f"the prediction has height and width {pred.shape}, the ground truth {gt.shape}"
            )
        for what, labels in (("prediction", pred), ("ground truth", gt)):
            if labels.dtype.kind not in "biu":
                raise ValueError(f"the {what} is a map of {labels.dtype}; labels are integers")
        size = self.num_classes
        valid = gt != self.ignore_label
        pred, gt = pred[valid], gt[valid]
        for what, labels in (("prediction", pred), ("ground truth", gt)):
            if labels.size and (labels.min() < 0 or labels.max() >= size):
                outside = [int(x) for x in np.unique(labels) if not 0 <= x < size]
                raise ValueError(
                    f"the {what} has labels {outside}; they have to lie in [0, {size})"
                    + (f" or be {self.ignore_label}" if what == "ground truth" else "")
                )
        cells = np.bincount(pred.astype(np.intp) * size + gt, minlength=size * size)
        seen = np.flatnonzero(cells)
        self._images[image_id] = seen, cells[seen]

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Add the images of `other`, which another process has seen; returns self."""
        self._images.update(other._images)
        return self

    def counts(self) -> np.ndarray:
        """Pixels of all images by predicted (rows) and annotated class, int64 (K, K)."""
        total = np.zeros(self.num_classes**2, dtype=np.int64)
        for cells, counts in self._images.values():
            total[cells] += counts
        return total.reshape(self.num_classes, self.num_classes)

    def compute(self, class_names: Sequence[str]) -> dict[str, float]:
        """The figures by the names and conventions of Detectron2's `SemSegEvaluator`, in percent.

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
        # Dividing by zero gives the NaN that says "no figure".
        with np.errstate(invalid="ignore"):
            acc = correct / gt_area
            iou = np.where(occurs, correct / (pred_area + gt_area - correct), np.nan)
            weights = gt_area / gt_area.sum()
            return {
                "mIoU": 100 * _mean(iou[occurs]),
                "fwIoU": 100 * float((iou * weights)[occurs].sum()),
                **_by_class("IoU", class_names, iou),
                "mACC": 100 * _mean(acc[occurs]),
                "pACC": 100 * float(correct.sum() / gt_area.sum()),
                **_by_class("ACC", class_names, acc),
            }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _by_class(metric: str, class_names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {
        f"{metric}-{name}": 100 * float(value)
        for name, value in zip(class_names, values, strict=True)
    }
