"""Mask losses of matched masks at full resolution, without ever holding full-resolution masks.

The formulas are those of `mask_former.losses`; here they are worked out mask by mask in little
memory, together with their gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mask_former.losses import count_of, dice_of, slices
from mask_former.upsampling import upsampling


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
    focal, dice = _MatchedMaskLosses.apply(logits, targets, segment, valid, image, alpha, gamma)
    pixels = targets.shape[1] * targets.shape[2]
    return focal / (pixels if valid is None else count_of(valid.flatten(1))[image]), dice


class _MatchedMaskLosses(torch.autograd.Function):
    """The gradients' coefficients are per mask, so that both gradients are known up to a factor
    in the forward pass and backward only scales them."""

    @staticmethod
    def forward(ctx, logits, targets, segment, valid, image, alpha, gamma):
        scale = upsampling(logits.shape[-2:], targets.shape[-2:], logits)
        # Booleans are slow to convert to floating point, bytes are not.
        targets = scale.arrange(targets).view(torch.uint8)
        valid = None if valid is None else scale.arrange(valid).view(torch.uint8)
        focal, dice = logits.new_empty(2, len(logits))
        gradients = logits.new_empty(2, *logits.shape) if ctx.needs_input_grad[0] else None
        parts = slices(logits, targets.shape[1])
        # New memory for every part would cost more than what is done with it.
        work = logits.new_empty(3, parts[0].stop, targets.shape[1])
        for part in parts:
            x = scale.up(logits[part])
            t = targets.index_select(0, segment[part]).to(x)
            v = None if valid is None else valid.index_select(0, image[part]).to(x)
            space = work[:, : len(x)]
            focal[part], dice[part] = _focal_and_dice(x, t, v, alpha, gamma, space)
            if gradients is not None:
                gradients[0, part] = scale.down(space[0])
                gradients[1, part] = scale.down(space[1])
        ctx.save_for_backward(gradients)
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_focal, grad_dice):
        (gradients,) = ctx.saved_tensors
        grad = gradients[0] * grad_focal[:, None, None]
        return grad.addcmul_(gradients[1], grad_dice[:, None, None]), *[None] * 6


def _focal_and_dice(
    x: Tensor, t: Tensor, valid: Tensor | None, alpha: float, gamma: float, space: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of the focal loss over the pixels, and dice loss, (M,) each, of `x` (M, P).

    Leaves their gradients with respect to `x` in the first two of `space`, (3, M, P). Overwrites
    `x` and works in place throughout, each array being used again as soon as it is free.
    """
    one = x.new_ones(())
    weight, loss, spare = space
    z = x.mul_(torch.sub(one, t, alpha=2, out=spare))  # the negative of mask_former.losses' z
    F.softplus(z, out=loss)
    wrong = z.sigmoid_()  # 1 - p_t
    torch.pow(wrong, gamma, out=weight)
    if valid is not None:
        wrong.mul_(valid)
        weight.mul_(valid)
    loss.mul_(weight)
    on_target = torch.mul(loss, t, out=spare).sum(1)
    focal = (1 - alpha) * loss.sum(1) + (2 * alpha - 1) * on_target
    area = t.sum(1) if valid is None else torch.mul(t, valid, out=spare).sum(1)
    missed = torch.mul(t, wrong, out=spare).sum(1)
    overlap = area - missed
    total = overlap + (wrong.sum(1) - missed) + area

    right = torch.sub(one, wrong, out=spare)
    focal_gradient = weight.mul_(wrong).addcmul_(loss, right, value=gamma)
    dice_gradient = torch.mul(wrong, right, out=loss)
    # alpha_t and the sign of dz/dx
    focal_gradient.mul_(torch.sub(one * (1 - alpha), t, out=spare))
    per_overlap = 2 / (total + 1)
    per_total = (2 * overlap + 1) / (total + 1) ** 2
    dice_gradient.mul_(torch.mul(t, -per_overlap[:, None], out=spare).add_(per_total[:, None]))
    return focal, dice_of(overlap, total)
