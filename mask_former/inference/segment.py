"""From the predictions of one image to its semantic, panoptic and instance segmentation.

Pure functions (paper, section 3.4 and appendix A). `class_logits` is (Q, K+1), the last class is
"no object"; `mask_logits` is (Q, h, w) as predicted, with the `sizes` that it is scaled to, or
(Q, H, W) at the resolution of the result, without.

Masks are scaled, and pixels decided, some rows of the result at a time: nothing of the size of all
masks, or of all classes, at the resolution of the result is held unless it is returned. All is done
in float32, under autocast too, and without gradients.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mask_former.inference.assign import assign_pixels, largest, pixel_counts, result_size
from mask_former.inference.resize import Scaling, Sizes, cut_rows, mask_tiles, tile_rows


def semantic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes | None = None,
    *,
    scale_scores: bool = False,
) -> Tensor:
    """Marginalise over the queries: class probability times mask probability, summed.

    Args:
        class_logits: (Q, K+1).
        mask_logits: (Q, h, w).
        sizes: that the masks are scaled to; None: they stay as they are.
        scale_scores: scale the masks to the image's size only, and from there to the size of the
            result the scores.

    Returns:
        scores (K, H, W), >= 0, not normalised.
    """
    with _exactly(mask_logits):
        size = result_size(mask_logits, sizes)
        scores = mask_logits.new_empty(class_logits.shape[1] - 1, *size, dtype=torch.float32)
        for rows, tile in _score_tiles(class_logits, mask_logits, sizes, scale_scores):
            scores[:, rows] = tile.transpose(0, 1)
    return scores


def semantic_labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes | None = None,
    *,
    scale_scores: bool = False,
) -> Tensor:
    """The class of the largest score at each pixel, int64 (H, W); see `semantic_inference`."""
    with _exactly(mask_logits):
        labels = mask_logits.new_empty(result_size(mask_logits, sizes), dtype=torch.int64)
        for rows, tile in _score_tiles(class_logits, mask_logits, sizes, scale_scores):
            labels[rows] = largest(tile)
    return labels


def confident_queries(class_logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices, scores and labels of the queries whose best class is an object.

    Args:
        class_logits: (Q, K+1).
        threshold: the score must be larger, in [0, 1].

    Returns:
        (n,) each.
    """
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = ((labels < class_logits.shape[-1] - 1) & (scores > threshold)).nonzero()[:, 0]
    return keep, scores[keep], labels[keep]


def panoptic_inference(
    scores: Tensor,
    labels: Tensor,
    mask_logits: Tensor,
    sizes: Sizes | None = None,
    *,
    thing_classes: Collection[int],
    overlap_threshold: float,
    void_below_half: bool = False,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merge confident queries: a pixel goes to the query with the largest score x probability.

    A segment is dropped when less than `overlap_threshold` of its own mask, where its
    probability is at least 0.5, is left to it. Stuff of one class becomes one segment.

    Args:
        scores, labels: of the confident queries, (n,); see `confident_queries`.
        mask_logits: their masks, (n, h, w).
        sizes: that the masks are scaled to; None: they stay as they are.
        thing_classes: the classes whose segments are instances; the others are stuff.
        overlap_threshold: in [0, 1].
        void_below_half: pixels where the segment that wins has a probability below 0.5 are void
            (Mask2Former); else they belong to it.

    Returns:
        segment ids, int32 (H, W), 0 where there is none; and the segments as
        `{"id", "isthing", "category_id"}`, in Detectron2's format.
    """
    size = result_size(mask_logits, sizes)
    if not len(scores):
        return mask_logits.new_zeros(size, dtype=torch.int32), []
    with _exactly(mask_logits):
        winner, rows = assign_pixels(
            scores.float(), labels, mask_logits, sizes, void_below_half=void_below_half
        )

    segment_of = [0] * (len(scores) + 1)  # the last entry is of pixels that no mask wins
    segments: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}
    for query, (label, own, won, kept) in enumerate(rows):
        if not own or not kept or won / own < overlap_threshold:
            continue
        if label in stuff:
            segment_of[query] = stuff[label]
            continue
        segment_of[query] = len(segments) + 1
        is_thing = label in thing_classes
        segments.append({"id": segment_of[query], "isthing": is_thing, "category_id": label})
        if not is_thing:
            stuff[label] = segment_of[query]
    lookup = torch.tensor(segment_of, dtype=torch.int32, device=winner.device)
    return lookup[winner], segments


def top_instances(
    class_logits: Tensor,
    *,
    thing_classes: Collection[int],
    top_k: int,
    of_all_classes: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, scores and labels of the best pairs of a query and a thing class.

    Args:
        class_logits: (Q, K+1).
        thing_classes: their contiguous ids.
        top_k: number of pairs.
        of_all_classes: find the `top_k` best pairs of a query and any class, and return those of
            things (Mask2Former); else find the best among the things.

    Returns:
        (n,) each, n <= top_k, by falling score.
    """
    probability = class_logits.softmax(-1)[:, :-1]
    device = class_logits.device
    things = torch.tensor(sorted(thing_classes), dtype=torch.int64, device=device)
    classes = torch.arange(probability.shape[1], device=device) if of_all_classes else things
    probability = probability[:, classes]
    scores, flat = probability.flatten().topk(min(top_k, probability.numel()))
    if not len(classes):
        return flat, scores, flat
    queries, labels = flat // len(classes), classes[flat % len(classes)]
    if not of_all_classes:
        return queries, scores, labels
    keep = torch.isin(labels, things)
    return queries[keep], scores[keep], labels[keep]


def instance_inference(
    queries: Tensor,
    scores: Tensor,
    labels: Tensor,
    mask_logits: Tensor,
    sizes: Sizes | None = None,
) -> Instances:
    """Make instances of pairs of a query and a class; see `top_instances`.

    The score of an instance is its class score times the mean probability of its mask's pixels
    (where it is above 0.5); its box is that of the mask. Empty masks are left out.

    Args:
        queries, scores, labels: of the pairs, (n,).
        mask_logits: of all queries, (Q, h, w).
        sizes: that the masks are scaled to; None: they stay as they are.

    Returns:
        `Instances` with `pred_masks` bool (m, H, W), `scores`, `pred_classes`, `pred_boxes`,
        by falling score.
    """
    size = result_size(mask_logits, sizes)
    scores = scores.float()
    queries, mask_of = queries.unique(return_inverse=True)
    with _exactly(mask_logits):
        masks = mask_logits.new_empty(len(queries), *size, dtype=torch.bool)
        area = scores.new_zeros(len(queries), dtype=torch.int64)
        total = scores.new_zeros(len(queries))
        for rows, tile in mask_tiles(mask_logits[queries], sizes):
            inside = torch.gt(tile, 0, out=torch.empty_like(tile))
            masks[:, rows] = inside.transpose(0, 1)
            area += pixel_counts(inside)
            total += tile.sigmoid_().mul_(inside).sum((0, 2))
        scores = scores * (total / area.clamp(min=1))[mask_of]
        order = scores.argsort(descending=True)
        order = order[area[mask_of[order]] > 0]
        result = Instances(size)
        result.pred_masks = masks[mask_of[order]]
        result.scores = scores[order]
        result.pred_classes = labels[order]
        result.pred_boxes = Boxes(_boxes(masks)[mask_of[order]])
    return result


@contextmanager
def _exactly(like: Tensor) -> Iterator[None]:
    """Without gradients, and without autocast on the tensor's kind of device."""
    kind = like.device.type
    # There is none for shapes without values, the "meta" device.
    autocast = torch.amp.is_autocast_available(kind)
    with torch.no_grad(), torch.autocast(kind if autocast else "cpu", enabled=False):
        yield


def _score_tiles(
    class_logits: Tensor, mask_logits: Tensor, sizes: Sizes | None, scale_scores: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Semantic scores: rows of the result, and the scores there, (len(rows), K, W)."""
    classes = class_logits.float().softmax(-1)[:, :-1].T.contiguous()  # (K, Q)
    steps, device = sizes.steps if sizes else [], mask_logits.device
    until = 1 if scale_scores else len(steps)
    before = Scaling(mask_logits.shape[-2:], steps[:until], device)
    after = Scaling(before.size, steps[until:], device)
    # Scaling and the sum over queries may change places. The sum goes where pixels are fewer.
    enlarges = math.prod(after.size) > math.prod(before.size)
    sum_rows = tile_rows(len(classes) * after.size[1], device)
    for rows in after.tiles(max(classes.shape) if enlarges else classes.shape[1]):
        between = after.inputs(rows)
        masks = before(cut_rows(mask_logits, before.inputs(between)), between).sigmoid_()
        if enlarges:
            yield rows, after(classes @ masks, rows)
            continue
        masks = after(masks, rows)
        for start in range(0, len(masks), sum_rows):
            part = masks[start : start + sum_rows]
            first = rows.start + start
            yield slice(first, first + len(part)), classes @ part


def _boxes(masks: Tensor) -> Tensor:
    """Bounding boxes (left, top, right, bottom) of bool (n, H, W), float32 (n, 4)."""
    sides = []
    for dim in (1, 2):  # columns, rows; PyTorch looks for a byte faster than for a bool
        hit = masks.view(torch.uint8).amax(dim) > 0
        index = torch.arange(hit.shape[1], device=hit.device)
        low = index.where(hit, len(index)).amin(1)
        high = (index + 1).where(hit, 0).amax(1)
        sides.append((low, high))
    (left, right), (top, bottom) = sides
    return torch.stack((left, top, right, bottom), 1).float()
