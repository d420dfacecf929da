"""From the predictions of one image to its semantic, panoptic and instance segmentation.

Pure functions (paper, section 3.4 and appendix A). `class_logits` is (Q, K+1), the last class is
"no object"; `mask_logits` is (Q, h, w) as predicted or (Q, H, W) at the resolution of the result.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor


def resize_masks(
    mask_logits: Tensor,
    *,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """Scale predicted masks, (Q, h, w), to the padded batch, cut the padding off, scale on.

    Args:
        padded_size: size (H, W) of the batch that the network saw.
        image_size: size of the image in it, without padding.
        output_size: size that was asked for; None leaves the masks at `image_size`.

    Returns:
        float32 (Q, *output_size).
    """
    masks = F.interpolate(mask_logits[:, None].float(), size=padded_size, mode="bilinear")
    masks = masks[..., : image_size[0], : image_size[1]]
    if output_size is not None and tuple(output_size) != tuple(image_size):
        masks = F.interpolate(masks, size=output_size, mode="bilinear")
    return masks[:, 0]


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Marginalise over the queries: class probability times mask probability, summed.

    Args:
        class_logits: (Q, K+1).
        mask_logits: (Q, H, W).

    Returns:
        scores (K, H, W), >= 0, not normalised.
    """
    probability = class_logits.softmax(-1)[:, :-1]
    return torch.einsum("qk,qhw->khw", probability, mask_logits.sigmoid())


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
    *,
    thing_classes: Collection[int],
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merge confident queries: a pixel goes to the query with the largest score x probability.

    A segment is dropped when less than `overlap_threshold` of its own mask, where its
    probability is at least 0.5, is left to it. Stuff of one class becomes one segment.

    Args:
        scores, labels: of the confident queries, (n,); see `confident_queries`.
        mask_logits: their masks, (n, H, W).
        thing_classes: the classes whose segments are instances; the others are stuff.
        overlap_threshold: in [0, 1].

    Returns:
        segment ids, int32 (H, W), 0 where there is none; and the segments as
        `{"id", "isthing", "category_id"}`, in Detectron2's format.
    """
    if not len(scores):
        return mask_logits.new_zeros(mask_logits.shape[-2:], dtype=torch.int32), []
    probability = mask_logits.sigmoid()
    own_area = (probability >= 0.5).flatten(1).sum(1)
    winner = (probability * scores[:, None, None]).argmax(0)
    left_area = torch.bincount(winner.flatten(), minlength=len(scores))

    segment_of = [0] * len(scores)
    segments: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}
    # One transfer for all segments.
    rows = torch.stack((labels, own_area, left_area), 1).tolist()
    for query, (label, own, left) in enumerate(rows):
        if not own or not left or left / own < overlap_threshold:
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
    class_logits: Tensor, *, thing_classes: Collection[int], top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, scores and labels of the `top_k` best pairs of a query and a thing class.

    Args:
        class_logits: (Q, K+1).

    Returns:
        (n,) each, n <= top_k, by falling score.
    """
    things = torch.tensor(sorted(thing_classes), dtype=torch.int64, device=class_logits.device)
    probability = class_logits.softmax(-1)[:, things]  # (Q, things)
    scores, flat = probability.flatten().topk(min(top_k, probability.numel()))
    if not len(things):
        return flat, scores, flat
    return flat // len(things), scores, things[flat % len(things)]


def instance_inference(scores: Tensor, labels: Tensor, mask_logits: Tensor) -> Instances:
    """Make instances of pairs of a class and a mask; see `top_instances`.

    The score of an instance is its class score times the mean probability of its mask's pixels
    (where it is above 0.5); its box is that of the mask. Empty masks are left out.

    Args:
        scores, labels: (n,).
        mask_logits: (n, H, W).

    Returns:
        `Instances` with `pred_masks` bool (m, H, W), `scores`, `pred_classes`, `pred_boxes`,
        by falling score.
    """
    probability = mask_logits.sigmoid()
    masks = mask_logits > 0
    area = masks.flatten(1).sum(1)
    scores = scores * (probability * masks).flatten(1).sum(1) / area.clamp(min=1)
    order = scores.argsort(descending=True)
    order = order[area[order] > 0]
    result = Instances(tuple(mask_logits.shape[-2:]))
    result.pred_masks = masks[order]
    result.scores = scores[order]
    result.pred_classes = labels[order]
    result.pred_boxes = BitMasks(result.pred_masks).get_bounding_boxes()
    return result
