"""Mask losses of matched masks at full resolution, without ever holding full-resolution masks.

The formulas are those of `mask_former.losses.mask`; here they are worked out mask by mask in little
memory, together with their gradients.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mask_former.losses import fused as fused_losses
from mask_former.losses.mask import count_of, dice_of, read_constant_of_log1p, slices
from mask_former.losses.upsample import upsampling


def matched_mask_losses(
    logits: Tensor,
    targets: Tensor,
    segment: Tensor,
    *,
    valid: Tensor | None = None,
    image: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    compiled: bool = False,
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
        compiled: compile what is computed for every pixel, when it first runs.

    Returns:
        focal and dice loss, (M,) each.
    """
    inputs = (logits, targets, segment, valid, image)
    focal, dice = _MatchedMaskLosses.apply(*inputs, alpha, gamma, compiled)
    pixels = targets.shape[1] * targets.shape[2]
    return focal / (pixels if valid is None else count_of(valid.flatten(1))[image]), dice


class _MatchedMaskLosses(torch.autograd.Function):
    """The gradients' coefficients are per mask, so that both gradients are known up to a factor
    in the forward pass and backward only scales them."""

    @staticmethod
    def forward(ctx, logits, targets, segment, valid, image, alpha, gamma, compiled):
        scale = upsampling(logits.shape[-2:], targets.shape[-2:], logits)
        # Booleans are slow to convert to floating point, bytes are not.
        targets = scale.arrange(targets).view(torch.uint8)
        valid = None if valid is None else scale.arrange(valid).view(torch.uint8)
        focal, dice = logits.new_empty(2, len(logits))
        gradients = logits.new_empty(2, *logits.shape) if ctx.needs_input_grad[0] else None
        parts = slices(logits, targets.shape[1])
        if compiled:
            terms = fused_losses.compiled(fused_losses.mask_terms)
        else:
            read_constant_of_log1p()
            # New memory for every part would cost more than what is done with it.
            work = logits.new_empty(3, parts[0].stop, targets.shape[1])
            terms = partial(_mask_terms, work)
        for part in parts:
            x = scale.up(logits[part])
            t = targets.index_select(0, segment[part])
            v = None if valid is None else valid.index_select(0, image[part])
            focal[part], overlap, total, full = terms(x, t, v, alpha, gamma)
            dice[part] = dice_of(overlap, total)
            if gradients is not None:
                gradients[:, part] = scale.down(full.flatten(0, 1)).unflatten(0, (2, len(x)))
        ctx.save_for_backward(gradients)
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_focal, grad_dice):
        (gradients,) = ctx.saved_tensors
        grad = gradients[0] * grad_focal[:, None, None]
        return grad.addcmul_(gradients[1], grad_dice[:, None, None]), *[None] * 7


def _mask_terms(
    work: Tensor, x: Tensor, t: Tensor, valid: Tensor | None, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `fused_losses.mask_terms`, in place, each array being used again as soon as it is free.

    Overwrites `x` and `work`, (3, >= M, P), of which the gradients are a part.
    """
    t = t.to(x)
    valid = None if valid is None else valid.to(x)
    one = x.new_ones(())
    gradients, spare = work[:2, : len(x)], work[2, : len(x)]
    weight, loss = gradients
    z = x.mul_(torch.sub(one, t, alpha=2, out=spare))  # the negative of mask_former.losses.mask' z
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
    return focal, overlap, total, gradients
