"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019), in memory.

The rules are those of the reference evaluation, including its treatment of void pixels and of
crowds. Pixels are counted run by run, then only the small table of overlaps is used.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_former.data.label_map import run_lengths
from mask_former.errors import UserError
from mask_former.evaluation.tables import mean_or_nan

VOID = 0
"""The segment id of pixels without annotation, or without prediction."""

SegmentInfo = dict[str, Any]
"""`id`, `category_id` and optionally `iscrowd`, as in COCO's `segments_info`."""


@dataclass(frozen=True)
class PanopticScores:
    """Panoptic, segmentation and recognition quality, each in [0, 1]; arrays or floats."""

    pq: np.ndarray
    sq: np.ndarray
    rq: np.ndarray


class PanopticQuality:
    """Panoptic quality of the images that are added to it.

    Statistics are kept by image, so that an image counts once however often it is added and
    however the images are spread over processes, and the result is the same to the last bit.

    Args:
        is_thing: of each of the K classes, whether it is a thing; bool (K,).
    """

    def __init__(self, is_thing: Sequence[bool] | np.ndarray) -> None:
        self.is_thing = np.asarray(is_thing, dtype=bool)
        # Of each image: the classes that occur, (n,), and their statistics, (n, 4).
        self._images: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def update(
        self,
        image_id: Hashable,
        pred_map: np.ndarray,
        pred_segments: Sequence[SegmentInfo],
        gt_map: np.ndarray,
        gt_segments: Sequence[SegmentInfo],
    ) -> None:
        """Add an image; see `panoptic_statistics` for the arguments and errors."""
        statistics = panoptic_statistics(
            pred_map, pred_segments, gt_map, gt_segments, len(self.is_thing)
        )
        self.add(image_id, statistics)

    def add(self, image_id: Hashable, statistics: np.ndarray) -> None:
        """Add the statistics of an image, float (K, 4)."""
        classes = np.flatnonzero(statistics.any(axis=1))
        self._images[image_id] = classes, statistics[classes]

    def merge(self, other: "PanopticQuality") -> "PanopticQuality":
        """Add the images of `other`, which another process has seen; returns self."""
        self._images.update(other._images)
        return self

    def statistics(self) -> np.ndarray:
        """The sum over all images, in the form of `panoptic_statistics`, float64 (K, 4)."""
        total = np.zeros((len(self.is_thing), 4))
        # A fixed order: floating point sums depend on it.
        for image_id in sorted(self._images, key=str):
            classes, statistics = self._images[image_id]
            total[classes] += statistics
        return total

    def per_class(self) -> PanopticScores:
        """Scores of each class, (K,); NaN for classes that never occur."""
        iou, tp, fp, fn = self.statistics().T
        matchable = tp + fp / 2 + fn / 2
        with np.errstate(invalid="ignore"):
            pq = iou / matchable
            rq = tp / matchable
        sq = np.where(matchable > 0, iou / np.maximum(tp, 1), np.nan)
        return PanopticScores(pq, sq, rq)

    def compute(self) -> dict[str, float]:
        """The averages over all classes, things (`_th`) and stuff (`_st`), in percent.

        Classes that occur neither in the ground truth nor in the predictions are left out; an
        average over no class is NaN.

        Returns:
            PQ, SQ, RQ, PQ_th, SQ_th, RQ_th, PQ_st, SQ_st, RQ_st.
        """
        scores = self.per_class()
        occurs = ~np.isnan(scores.pq)
        groups = {"": occurs, "_th": occurs & self.is_thing, "_st": occurs & ~self.is_thing}
        return {
            name + suffix: 100 * mean_or_nan(score[group])
            for suffix, group in groups.items()
            for name, score in (("PQ", scores.pq), ("SQ", scores.sq), ("RQ", scores.rq))
        }


def panoptic_statistics(
    pred_map: np.ndarray,
    pred_segments: Sequence[SegmentInfo],
    gt_map: np.ndarray,
    gt_segments: Sequence[SegmentInfo],
    num_classes: int,
) -> np.ndarray:
    """Match the segments of one image and count.

    A predicted and an annotated segment of one class match when their IoU exceeds 0.5; pixels
    without annotation do not count in the union. An annotated segment without a pixel is missed. A
    crowd is neither matched nor missed. A prediction without match is a false positive, unless more
    than half of it lies on pixels without annotation or on a crowd of its class (of several such
    crowds in an image, the last: the reference evaluation looks at one only).

    Args:
        pred_map: segment ids, integers (H, W); 0: nothing predicted.
        pred_segments: `id` and `category_id`, in [0, K), of each segment of `pred_map`.
        gt_map: segment ids, integers (H, W); 0: no annotation.
        gt_segments: as `pred_segments`, with an optional `iscrowd`.
        num_classes: K.

    Returns:
        Of each class the sum of the IoUs of its matches, and the number of matches, of false
        positives and of false negatives; float64 (K, 4).

    Raises:
        UserError: maps of different sizes, or not of integers; segments that the list lacks;
            predicted ones that the map lacks; classes out of range.
    """
    pred_class = _classes("prediction", pred_segments, num_classes)
    gt_class = _classes("ground truth", gt_segments, num_classes)
    crowd = np.array([bool(segment.get("iscrowd", 0)) for segment in gt_segments], dtype=bool)

    check_maps(pred_map, gt_map)
    (pred_ids, gt_ids), lengths = run_lengths(pred_map, gt_map)
    columns = _index("prediction", pred_ids, pred_segments)
    rows = _index("ground truth", gt_ids, gt_segments)
    missing = np.setdiff1d(np.arange(len(pred_segments)), columns - 1)
    if missing.size:
        ids = [pred_segments[index]["id"] for index in missing]
        raise UserError(f"the prediction's list has segments without a pixel in its map: {ids}")
    shape = len(gt_segments) + 1, len(pred_segments) + 1
    overlap = np.bincount(rows * shape[1] + columns, lengths, minlength=shape[0] * shape[1])
    overlap = overlap.astype(np.int64).reshape(shape)
    return overlap_statistics(overlap, pred_class, gt_class, num_classes, crowd)


def overlap_statistics(
    overlap: np.ndarray,
    pred_class: np.ndarray,
    gt_class: np.ndarray,
    num_classes: int,
    crowd: np.ndarray | None = None,
) -> np.ndarray:
    """`panoptic_statistics` of segments whose common pixels have been counted.

    Args:
        overlap: common pixels of the G annotated (rows) and the P predicted segments (columns),
            int64 (G + 1, P + 1); the first row and column are void.
        pred_class: in [0, K), int64 (P,).
        gt_class: as `pred_class`, (G,).
        num_classes: K.
        crowd: which annotated segments are crowds, bool (G,); None: none.

    Returns:
        float64 (K, 4).
    """
    crowd = np.zeros(len(gt_class), dtype=bool) if crowd is None else crowd
    inter = overlap[1:, 1:]
    pred_area = overlap[:, 1:].sum(axis=0)
    on_void = overlap[0, 1:]
    union = overlap[1:].sum(axis=1)[:, None] + (pred_area - on_void) - inter
    same_class = gt_class[:, None] == pred_class
    match = same_class & ~crowd[:, None] & (2 * inter > union)

    on_crowd = np.zeros_like(on_void)
    for row in np.flatnonzero(crowd):
        on_crowd[same_class[row]] = inter[row, same_class[row]]
    ignored = 2 * (on_void + on_crowd) > pred_area

    rows, columns = np.nonzero(match)
    counted = (
        (gt_class[rows], inter[rows, columns] / union[rows, columns]),
        (gt_class[rows], None),
        (pred_class[~match.any(axis=0) & ~ignored], None),
        (gt_class[~match.any(axis=1) & ~crowd], None),
    )
    return np.stack(
        [np.bincount(classes, weights, minlength=num_classes) for classes, weights in counted],
        axis=1,
    ).astype(np.float64)


def invisible_segments(gt_map: np.ndarray, gt_segments: Sequence[SegmentInfo]) -> int:
    """How many segments of a list have no pixel in their map, (H, W)."""
    (ids,), _ = run_lengths(gt_map)
    return len({segment["id"] for segment in gt_segments} - set(np.unique(ids).tolist()))


def check_maps(pred: np.ndarray, gt: np.ndarray) -> None:
    """Raise UserError unless both maps are integers of one size (H, W)."""
    if pred.shape != gt.shape:
        raise UserError(
            f"the prediction has height and width {pred.shape}, the ground truth {gt.shape}"
        )
    for what, values in (("prediction", pred), ("ground truth", gt)):
        if values.dtype.kind not in "biu":
            raise UserError(
                f"the {what} is a map of {values.dtype}; labels and segment ids are integers"
            )


def _index(what: str, ids_in_map: np.ndarray, segments: Sequence[SegmentInfo]) -> np.ndarray:
    """Replace ids: void by 0, the segments by 1, 2, ... in the order of their list."""
    ids = np.array([VOID] + [segment["id"] for segment in segments], dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (ids[1:] == ids[:-1]).any():
        raise UserError(
            f"the {what} lists a segment twice, or one with the id {VOID} of unlabelled pixels: "
            f"{ids[1:].tolist()}"
        )
    position = np.minimum(np.searchsorted(ids, ids_in_map), len(ids) - 1)
    known = ids[position] == ids_in_map
    if not known.all():
        unknown = np.unique(ids_in_map[~known]).tolist()
        raise UserError(f"the {what}'s map has segments that its list lacks: {unknown}")
    return order[position]


def _classes(what: str, segments: Sequence[SegmentInfo], num_classes: int) -> np.ndarray:
    classes = np.array([segment["category_id"] for segment in segments], dtype=np.int64)
    if ((classes < 0) | (classes >= num_classes)).any():
        raise UserError(
            f"the {what} has classes {sorted(set(classes.tolist()))}; "
            f"they must lie in [0, {num_classes})"
        )
    return classes
