"""What matching and losses compute for every pixel, written for `torch.compile`.

The same formulas as in `mask.py` and `dense.py`, which work them out in place, one
operator at a time. Here they are plain expressions, which a compiler fuses into one or two passes
over memory.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled when it first runs; once for all but a few sizes (none, one mask)."""
    return torch.compile(function, dynamic=True)


def mask_terms(
    x: Tensor, t: Tensor, valid: Tensor | None, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What focal and dice loss of masks are made of, and the gradients of both.

    Args:
        x: logits, (M, P).
        t, valid: targets, and the pixels that count; bytes (M, P).
        alpha, gamma: see `sigmoid_focal_loss`.

    Returns:
        sum of the focal loss over the pixels; overlap and total, see `dice_of`: (M,) each;
        gradients of focal and dice loss with respect to `x`, (2, M, P).
    """
    t = t.to(x.dtype)
    counts = torch.ones_like(x) if valid is None else valid.to(x.dtype)
    softplus, wrong, right = _of_one_exponential(x * (1 - 2 * t))
    weight = wrong**gamma * counts
    loss = weight * softplus
    focal = ((1 - alpha + (2 * alpha - 1) * t) * loss).sum(1)
    focal_gradient = (1 - alpha - t) * (weight * wrong + gamma * loss * right)

    wrong = wrong * counts
    area = (t * counts).sum(1)
    missed = (t * wrong).sum(1)
    overlap = area - missed
    total = overlap + (wrong.sum(1) - missed) + area
    per_overlap = 2 / (total + 1)
    per_total = (2 * overlap + 1) / (total + 1) ** 2
    dice_gradient = wrong * right * (per_total[:, None] - t * per_overlap[:, None])
    return focal, overlap, total, torch.stack((focal_gradient, dice_gradient))


def pairwise_terms(
    x: Tensor, counted: Tensor, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a mask contributes to its focal and dice loss against any target.

    Args:
        x: logits, (Q, P).
        counted: one for the pixels that count, zero for others, (P,).
        alpha, gamma: see `sigmoid_focal_loss`.

    Returns:
        probability of every pixel, and (1 - alpha) times what it costs on the background less
        alpha times what it costs on the target, (Q, P); the sums over the pixels that count of
        the probability and of what they cost on the background, (Q,).
    """
    softplus, p, right = _of_one_exponential(x)
    background = p**gamma * softplus
    on_target = right**gamma * (softplus - x)
    gain = (1 - alpha) * background - alpha * on_target
    return p, gain, (p * counted).sum(1), (background * counted).sum(1)


def _of_one_exponential(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """softplus(z), sigmoid(z) and sigmoid(-z)."""
    e = torch.exp(-z.abs())
    larger = 1 / (1 + e)
    smaller = e * larger
    softplus = z.clamp(min=0) - torch.log(larger)
    return softplus, torch.where(z > 0, larger, smaller), torch.where(z > 0, smaller, larger)
