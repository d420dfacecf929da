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

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pixels of upsampled masks that are worked on at a time: enough to keep the device busy, few
# enough to stay in a processor's cache.
_CHUNK_PIXELS = {"cpu": 1 << 16, "cuda": 1 << 25}


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
    return loss.mean(1) if valid is None else (loss * valid).sum(1) / _count(valid)


def pairwise_sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    valid: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss of every mask, (Q, P), against every target, bool (N, P); returns (Q, N).

    `valid` is bool (P,): all masks and targets are of one image.
    """
    positive = alpha * _focal(logits, gamma)
    negative = (1 - alpha) * _focal(-logits, gamma)
    if valid is not None:
        positive, negative = positive * valid, negative * valid
    cost = (positive - negative) @ targets.to(logits).T + negative.sum(1, keepdim=True)
    return cost / (logits.shape[1] if valid is None else _count(valid))


def dice_loss(logits: Tensor, targets: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Dice loss of each mask, (M, P), against its own target, bool (M, P); (M,) in [0, 1).

    `valid` is bool (M, P) or (P,).
    """
    p = logits.sigmoid()
    if valid is not None:
        p, targets = p * valid, targets & valid
    overlap = (p * targets).sum(1)
    return _dice(overlap, p.sum(1) + targets.sum(1))


def pairwise_dice_loss(logits: Tensor, targets: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Dice loss of every mask, (Q, P), against every target, bool (N, P); (Q, N) in [0, 1).

    `valid` is bool (P,): all masks and targets are of one image.
    """
    p, targets = logits.sigmoid(), targets.to(logits)
    if valid is not None:
        p, targets = p * valid, targets * valid
    return _dice(p @ targets.T, p.sum(1)[:, None] + targets.sum(1))


def _dice(overlap: Tensor, total: Tensor) -> Tensor:
    return 1 - (2 * overlap + 1) / (total + 1)


def _count(valid: Tensor) -> Tensor:
    """Number of pixels that count in each row of `valid`, at least 1."""
    return valid.sum(-1).clamp(min=1)


def matched_mask_losses(
    logits: Tensor,
    targets: Tensor,
    segment: Tensor,
    *,
    valid: Tensor | None = None,
    image: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each mask, upsampled bilinearly, against its segment.

    Equals `sigmoid_focal_loss` and `dice_loss` of the upsampled masks, without ever holding more
    of them than a small chunk: the gradient is computed along with the loss and brought back to
    the masks' own resolution at once.

    Args:
        logits: (M, h, w), float32 or float64.
        targets: the segments, bool (N, H, W).
        segment: which segment each mask is compared with, int64 (M,), in [0, N).
        valid: the pixels of each image that count, bool (B, H, W); None: all.
        image: which image each mask belongs to, int64 (M,), in [0, B); needed with `valid` only.
        alpha, gamma: see `sigmoid_focal_loss`.

    Returns:
        focal and dice loss, (M,) each.
    """
    return _MatchedMaskLosses.apply(logits, targets, segment, valid, image, alpha, gamma)


class _MatchedMaskLosses(torch.autograd.Function):
    """The gradients' coefficients are per mask, so that both gradients are known up to a factor
    in the forward pass and backward only scales them."""

    @staticmethod
    def forward(ctx, logits, targets, segment, valid, image, alpha, gamma):
        height, width = targets.shape[-2:]
        rows = _interpolation_matrix(logits.shape[-2], height, logits)
        columns = _interpolation_matrix(logits.shape[-1], width, logits).T
        focal, dice = logits.new_empty(2, len(logits))
        gradients = logits.new_empty(2, *logits.shape) if ctx.needs_input_grad[0] else None
        chunk = max(1, _CHUNK_PIXELS.get(logits.device.type, 1 << 25) // (height * width))
        for start in range(0, len(logits), chunk):
            part = slice(start, start + chunk)
            x = (rows @ logits[part] @ columns).flatten(1)
            t = targets[segment[part]].flatten(1).to(x)
            v = None if valid is None else valid[image[part]].flatten(1).to(x)
            (focal[part], dice[part]), full = _focal_dice_and_gradients(x, t, v, alpha, gamma)
            if gradients is not None:
                for gradient, g in zip(gradients, full, strict=True):
                    gradient[part] = rows.T @ g.view(-1, height, width) @ columns.T
        ctx.save_for_backward(gradients)
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_focal, grad_dice):
        (gradients,) = ctx.saved_tensors
        grad = gradients[0] * grad_focal[:, None, None] + gradients[1] * grad_dice[:, None, None]
        return grad, *[None] * 6


def _focal_dice_and_gradients(
    x: Tensor, t: Tensor, valid: Tensor | None, alpha: float, gamma: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both losses, (M,), and their gradients with respect to `x` (M, P); overwrites `x`, `t`."""
    sign = 1 - 2 * t
    z = x.mul_(sign)  # the negative of the docstring's z
    softplus = F.softplus(z)
    wrong = z.sigmoid_()  # 1 - p_t
    right = 1 - wrong
    weight = ((2 * alpha - 1) * t).add_(1 - alpha).mul_(wrong.pow(gamma))
    pixels = torch.full_like(t[:, :1], t.shape[1]) if valid is None else _count(valid)[:, None]
    if valid is not None:
        weight.mul_(valid)
    focal = (weight * softplus).sum(1) / pixels[:, 0]
    slope = softplus.mul_(right).mul_(gamma).add_(wrong)
    focal_gradient = slope.mul_(weight).mul_(sign.div_(pixels))

    if valid is not None:
        wrong.mul_(valid)
        t.mul_(valid)
    area = t.sum(1)
    missed = torch.einsum("mp,mp->m", wrong, t)
    overlap = area - missed
    total = overlap + (wrong.sum(1) - missed) + area
    per_overlap = 2 / (total + 1)
    per_total = (2 * overlap + 1) / (total + 1) ** 2
    dice_gradient = right.mul_(wrong).mul_(per_total[:, None] - per_overlap[:, None] * t)
    return (focal, _dice(overlap, total)), (focal_gradient, dice_gradient)


def _interpolation_matrix(size: int, new_size: int, like: Tensor) -> Tensor:
    """Bilinear interpolation of one dimension as a matrix, (new_size, size).

    On a CPU, products with it take less time than the interpolation's own backward pass.
    """
    identity = torch.eye(size, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(identity, size=new_size, mode="linear")[0].T
