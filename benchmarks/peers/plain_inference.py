"""Inference as the paper's section 3.4 and appendix A read, in the plain order of operations.

All masks are scaled to the batch, their padding is cut off, and they are scaled to the result;
then come the probabilities, and whatever is made of them.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.predictions import Size, Sizes


def scale(images: Tensor, size: Size) -> Tensor:
    """(C, h, w) to (C, *size)."""
    return F.interpolate(images[None], size=size, mode="bilinear", align_corners=False)[0]


def image_masks(mask_logits: Tensor, sizes: Sizes) -> Tensor:
    """Masks at the size of the image."""
    height, width = sizes.image
    return scale(mask_logits, sizes.padded)[:, :height, :width]


def semantic(class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Tensor:
    """Scores, (K, H, W), of masks at the size of the result."""
    masks = scale(image_masks(mask_logits, sizes), sizes.output)
    return torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], masks.sigmoid())


def semantic_scaled(class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Tensor:
    """Scores, (K, H, W), made at the size of the image and scaled to that of the result."""
    masks = image_masks(mask_logits, sizes)
    scores = torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], masks.sigmoid())
    return scale(scores, sizes.output)


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes,
    *,
    thing_classes: Collection[int],
    object_threshold: float,
    overlap_threshold: float,
    keep_first: bool = False,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Map of segments, and what they are. With `keep_first` only confident masks are scaled."""
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != class_logits.shape[-1] - 1) & (scores > object_threshold)
    scores, labels = scores[keep], labels[keep]
    if keep_first:
        mask_logits = mask_logits[keep]
    masks = scale(image_masks(mask_logits, sizes), sizes.output).sigmoid()
    if not keep_first:
        masks = masks[keep]

    panoptic_map = torch.zeros(sizes.output, dtype=torch.int32, device=masks.device)
    segments: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}
    if len(masks) == 0:
        return panoptic_map, segments
    winner = (scores[:, None, None] * masks).argmax(0)
    for i in range(len(masks)):
        label = labels[i].item()
        pixels = winner == i
        area, own_area = pixels.sum().item(), (masks[i] >= 0.5).sum().item()
        if area == 0 or own_area == 0 or area / own_area < overlap_threshold:
            continue
        is_thing = label in thing_classes
        if label in stuff:
            panoptic_map[pixels] = stuff[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": label})
        panoptic_map[pixels] = len(segments)
        if not is_thing:
            stuff[label] = len(segments)
    return panoptic_map, segments


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes,
    *,
    thing_classes: Collection[int],
    top_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks, bool (n, H, W), scores and labels of the best pairs of a query and a class."""
    things = torch.tensor(sorted(thing_classes), device=class_logits.device)
    scores, pairs = class_logits.softmax(-1)[:, things].flatten().topk(top_k)
    queries, labels = pairs // len(things), things[pairs % len(things)]
    logits = scale(image_masks(mask_logits, sizes), sizes.output)[queries]
    masks = (logits > 0).float()
    quality = (logits.sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)
    return masks > 0, scores * quality, labels
