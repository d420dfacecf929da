"""Which of several masks each pixel goes to, decided some rows of the result at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.inference.resize import Size, Sizes, mask_tiles

# How far apart, relatively, scores may be made by scaling in one step instead of two.
_ROUNDING = 4e-6


def result_size(mask_logits: Tensor, sizes: Sizes | None) -> Size:
    """Height and width of a result from masks, (n, h, w), that go through `sizes`, if any."""
    return tuple(mask_logits.shape[-2:]) if sizes is None else tuple(sizes.output)


def assign_pixels(
    scores: Tensor, labels: Tensor, mask_logits: Tensor, sizes: Sizes | None
) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Give each pixel to the mask with the largest score x probability.

    Where two products are so close that rounding decides, their masks are scaled once more in the
    published system's steps, so that every pixel goes where it goes there.

    Args:
        scores, labels: of the masks, float32 and int64 (n,).
        mask_logits: (n, h, w), n >= 1.
        sizes: that the masks are scaled to; None: they stay as they are.

    Returns:
        index of the mask, int64 (H, W); and on the host, for every mask, its label, its own area
        (probability at least 0.5), and the area that it was given. There is one transfer for all
        masks, and one more after a close decision.
    """
    winner, own_area, tied, rivals = _assign_tiles(scores, mask_logits, sizes)
    rows = _to_host(labels, own_area, winner, rivals)
    if sizes is not None and any(rival for *_, rival in rows):
        rivals = rivals.nonzero()[:, 0]
        products = _products(scores[rivals], mask_logits[rivals], sizes, tied)
        winner[tied] = rivals[products.argmax(0)]
        rows = _to_host(labels, own_area, winner, torch.zeros_like(labels))
    return winner, [(label, own, left) for label, own, left, _ in rows]


def largest(tile: Tensor, best: Tensor | None = None) -> Tensor:
    """Index of the first largest of C values, of float32 (r, C, W), which is overwritten; `best`
    is that value, (r, 1, W), where it is known.

    PyTorch's largest value is several times as fast as its index of it, on a CPU.
    """
    last = tile.shape[1] - 1
    codes = torch.arange(last, -1, -1, dtype=tile.dtype, device=tile.device)[:, None]
    best = tile.amax(1, keepdim=True) if best is None else best
    return last - tile.eq_(best).mul_(codes).amax(1)


def areas(inside: Tensor) -> Tensor:
    """Number of pixels of each of C masks, zeros and ones in float32 (r, C, W): int64 (C,).

    Floats are summed fast, and exactly up to 2^24, which a row does not reach.
    """
    return inside.sum(2).long().sum(0)


def _assign_tiles(
    scores: Tensor, mask_logits: Tensor, sizes: Sizes | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which of n masks each pixel goes to, int64 (H, W), and the areas of the masks, int64 (n,);
    where rounding may have decided, bool (H, W), and between which masks, bool (n,)."""
    winner = mask_logits.new_empty(result_size(mask_logits, sizes), dtype=torch.int64)
    tied = torch.empty_like(winner, dtype=torch.bool)
    own_area = torch.zeros_like(scores, dtype=torch.int64)
    rivals = torch.zeros_like(scores, dtype=torch.bool)
    for rows, tile in mask_tiles(mask_logits, sizes):
        probability = tile.sigmoid_()
        inside = torch.empty_like(tile)
        own_area += areas(torch.ge(probability, 0.5, out=inside))
        products = probability.mul_(scores[:, None])
        best = products.amax(1, keepdim=True)
        near = torch.ge(products, best * (1 - _ROUNDING), out=inside)
        tied[rows] = near.sum(1) > 1
        rivals |= near.mul_(tied[rows, None]).amax((0, 2)) > 0
        winner[rows] = largest(products, best)
    return winner, own_area, tied, rivals


def _to_host(labels: Tensor, own_area: Tensor, winner: Tensor, rivals: Tensor) -> list[list[int]]:
    """On the host, of every mask: label, area, area that is left to it, whether it has a rival."""
    left_area = torch.bincount(winner.flatten(), minlength=len(labels))
    return torch.stack((labels, own_area, left_area, rivals), 1).tolist()


def _products(scores: Tensor, mask_logits: Tensor, sizes: Sizes, where: Tensor) -> Tensor:
    """Score x probability of n masks at p pixels of the result, bool (H, W): (n, p).

    Scales in the published system's steps, one mask after the other, so that all bits are its.
    """
    products = []
    for score, mask in zip(scores, mask_logits.float(), strict=True):
        x = F.interpolate(mask[None, None], size=sizes.padded, mode="bilinear")
        x = x[..., : sizes.image[0], : sizes.image[1]]
        if tuple(sizes.output) != tuple(sizes.image):
            x = F.interpolate(x, size=sizes.output, mode="bilinear")
        products.append((x[0, 0].sigmoid() * score)[where])
    return torch.stack(products)
