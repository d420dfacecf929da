"""Which of several masks each pixel goes to, decided some rows of the result at a time."""

import torch
from torch import Tensor

from mask_former.inference.resize import Size, Sizes, mask_tiles


def result_size(mask_logits: Tensor, sizes: Sizes | None) -> Size:
    """Height and width of a result from masks, (n, h, w), that go through `sizes`, if any."""
    return tuple(mask_logits.shape[-2:]) if sizes is None else tuple(sizes.output)


def assign_pixels(
    scores: Tensor,
    labels: Tensor,
    mask_logits: Tensor,
    sizes: Sizes | None,
    *,
    void_below_half: bool,
) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """Give each pixel to the mask with the largest score x probability.

    Args:
        scores, labels: of the masks, float32 and int64 (n,).
        mask_logits: (n, h, w), n >= 1.
        sizes: that the masks are scaled to; None: they stay as they are.
        void_below_half: a pixel where the mask that wins has a probability below 0.5 goes to none.

    Returns:
        index of the mask, n for none, int64 (H, W); and on the host, for every mask, its label,
        its own area (probability at least 0.5), the area where it wins, and the area of these
        pixels that it keeps. There is one transfer for all masks.
    """
    num_masks = len(scores)
    winner = mask_logits.new_empty(result_size(mask_logits, sizes), dtype=torch.int64)
    own, won, kept = scores.new_zeros(3, num_masks, dtype=torch.int64)
    for rows, tile in mask_tiles(mask_logits, sizes):
        probability = tile.sigmoid_()
        inside = torch.ge(probability, 0.5, out=torch.empty_like(tile))
        own += pixel_counts(inside)
        # Overwritten: what is compared is no longer a probability.
        part = largest(probability.mul_(scores[:, None]))
        won += torch.bincount(part.flatten(), minlength=num_masks)
        if void_below_half:
            confident = inside.gather(1, part[:, None])[:, 0] > 0
            part = part.where(confident, num_masks)
            kept += torch.bincount(part.flatten(), minlength=num_masks + 1)[:num_masks]
        winner[rows] = part
    kept = kept if void_below_half else won
    return winner, [tuple(row) for row in torch.stack((labels, own, won, kept), 1).tolist()]


def largest(tile: Tensor) -> Tensor:
    """Index of the first largest of C values, of float32 (r, C, W), which is overwritten.

    PyTorch's largest value is several times as fast as its index of it, on a CPU.
    """
    last = tile.shape[1] - 1
    codes = torch.arange(last, -1, -1, dtype=tile.dtype, device=tile.device)[:, None]
    return (last - tile.eq_(tile.amax(1, keepdim=True)).mul_(codes).amax(1)).long()


def pixel_counts(inside: Tensor) -> Tensor:
    """Number of pixels of each of C masks, zeros and ones in float32 (r, C, W): int64 (C,).

    Floats are summed fast, and exactly up to 2^24, which a row does not reach.
    """
    return inside.sum(2).long().sum(0)
