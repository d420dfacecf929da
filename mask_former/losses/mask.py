"""Mask losses: sigmoid focal loss and dice loss, paired and pairwise, from one formula each.

The paired forms compare mask i with target i and train the model; the pairwise forms compare
every mask with every target and are the costs of the matching. Masks are given as logits x.

Focal loss ("Focal Loss for Dense Object Detection", equation 5) of a pixel is
`alpha_t (1 - p_t)^gamma softplus(-z)`, where z is x on the target and -x elsewhere and
p_t = sigmoid(z). Dice loss ("V-Net", section 3) of a mask is
`1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)`, with p = sigmoid(x).

Where an image has pixels without annotation, `valid` leaves them out of the mean and of the sums;
without it all pixels count.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.losses import fused as fused_losses

# Pixels that are worked on at a time: enough to keep the device busy, few enough to stay in a
# processor's cache.
_CHUNK_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 23}


def read_constant_of_log1p() -> None:
    """Bring a page of PyTorch's float32 log1p, and so of softplus, into memory.

    On some processors (AMD Zen 5) they take ten times as long while the page with one of their
    constants is not there, and only -0 makes log1p read that one: for all else a mask suppresses
    the read, and with it the page fault.
    """
    torch.log1p(torch.tensor(-0.0, dtype=torch.float32, device="cpu"))


def slices(masks: Tensor, pixels: int) -> list[slice]:
    """Split `masks`, of so many pixels each, into parts to work on at a time; the first is the
    largest."""
    size = max(1, _CHUNK_PIXELS.get(masks.device.type, 1 << 23) // pixels)
    return [slice(i, min(i + size, len(masks))) for i in range(0, max(len(masks), 1), size)]


def _focal(z: Tensor, gamma: float) -> Tensor:
    """Focal loss, without alpha, of a pixel whose logit for being right is `z`."""
    return torch.sigmoid(-z).pow(gamma) * F.softplus(-z)


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    valid: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss of each mask against its own target, mean over the pixels.

    Args:
        logits: (M, P), any float dtype.
        targets: (M, P), bool.
        valid: the pixels that count, bool (M, P) or (P,); None: all.
        alpha: weight of the target's pixels, in [0, 1]; the others have 1 - alpha.
        gamma: how fast the weight of well-classified pixels falls, >= 0.

    Returns:
        (M,), each >= 0.
    """
    loss = _focal(torch.where(targets, logits, -logits), gamma)
    loss = loss * torch.where(targets, alpha, 1 - alpha)
    return loss.mean(1) if valid is None else (loss * valid).sum(1) / count_of(valid)


def dice_loss(logits: Tensor, targets: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Dice loss of each mask, (M, P), against its own target, bool (M, P); (M,) in [0, 1).

    `valid` is bool (M, P) or (P,).
    """
    p = logits.sigmoid()
    if valid is not None:
        p, targets = p * valid, targets & valid
    overlap = (p * targets).sum(1)
    return dice_of(overlap, p.sum(1) + targets.sum(1))


def pairwise_mask_losses(
    logits: Tensor,
    targets: Tensor,
    *,
    valid: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of every mask against every target; without gradient.

    Both are linear in the target, and hence matrix products.

    Args:
        logits: (Q, P), float32 or float64.
        targets: (N, P), bool, or zeros and ones of the logits' dtype.
        valid: the pixels that count, likewise, (P,): all masks and targets are of one image.
        alpha, gamma: see `sigmoid_focal_loss`.
        compiled: compile what is computed for every pixel, when it first runs.

    Returns:
        focal and dice loss, (Q, N) each.
    """
    logits, targets = logits.detach(), targets.to(logits)
    counted = logits.new_ones(logits.shape[1]) if valid is None else valid.to(logits)
    if valid is not None:
        targets = targets * counted
    focal, overlap = logits.new_empty(2, len(logits), len(targets))
    area, background = logits.new_empty(2, len(logits), 1)
    parts = slices(logits, logits.shape[1])
    if compiled:
        terms = fused_losses.compiled(fused_losses.pairwise_terms)
    else:
        read_constant_of_log1p()
        terms = partial(_pairwise_terms, logits.new_empty(4, parts[0].stop, logits.shape[1]))
    for part in parts:
        p, gain, area[part, 0], background[part, 0] = terms(logits[part], counted, alpha, gamma)
        overlap[part] = p @ targets.T
        focal[part] = gain @ targets.T
    focal = ((1 - alpha) * background - focal) / counted.sum().clamp(min=1)
    return focal, dice_of(overlap, area + targets.sum(1))


def _pairwise_terms(
    work: Tensor, x: Tensor, counted: Tensor, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `fused_losses.pairwise_terms`, in `work`, (4, >= Q, P)."""
    p, right, background, on_target = work[:, : len(x)]
    torch.sigmoid(x, out=p)
    torch.sub(x.new_ones(()), p, out=right)
    F.softplus(x, out=on_target)
    torch.pow(p, gamma, out=background).mul_(on_target)
    torch.sub(x, on_target, out=on_target).mul_(right.pow_(gamma))  # is negative
    area, on_background = p @ counted, background @ counted
    return p, background.lerp_(on_target, alpha), area, on_background


def dice_of(overlap: Tensor, total: Tensor) -> Tensor:
    """Dice loss of masks that share `overlap` with their targets and have `total` with them."""
    return 1 - (2 * overlap + 1) / (total + 1)


def count_of(valid: Tensor) -> Tensor:
    """Number of pixels that count in each row of `valid`, at least 1."""
    return valid.sum(-1).clamp(min=1)
