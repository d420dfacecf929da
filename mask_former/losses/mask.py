"""Mask losses: focal, binary cross entropy and dice, each from one formula.

A mask loss says what a pixel costs whose logit for being wrong is z, and what the sums of that are
for a whole mask. z is the mask's logit x outside of the target, and -x inside. Everything else
derives from it, once for all losses: the paired form, which compares mask i with target i and
trains the model, the pairwise form, which compares every mask with every target and is the cost of
the matching, and, by autograd, the gradients.

In shapes, M masks (or Q masks and N targets) have P pixels, or points, each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskLoss(ABC):
    """How far a mask is from its target.

    To add one, derive a class, and put it into `MASK_LOSSES` for configs to name it.
    """

    @abstractmethod
    def pixel(self, z: Tensor, p: Tensor) -> Tensor:
        """What each pixel costs.

        Args:
            z: its logit for being wrong, any shape.
            p: its probability of being wrong, sigmoid(z).
        """

    @abstractmethod
    def total(self, missed: Tensor, excess: Tensor, area: Tensor, count: Tensor) -> Tensor:
        """The loss of a mask; all are (M,), or (Q, N) and (N,) for every pair.

        Args:
            missed, excess: sums of `pixel` over the target and over the rest.
            area, count: size of the target and of the whole, in pixels.
        """


class FocalLoss(MaskLoss):
    """Sigmoid focal loss, the mean over the pixels; >= 0.

    "Focal Loss for Dense Object Detection", equation 5.

    Args:
        alpha: weight of the target's pixels, in [0, 1]; the others have 1 - alpha.
        gamma: how fast the weight of well-classified pixels falls, >= 0.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha = alpha
        self.gamma = gamma

    def pixel(self, z: Tensor, p: Tensor) -> Tensor:
        return p.pow(self.gamma) * F.softplus(z)

    def total(self, missed: Tensor, excess: Tensor, area: Tensor, count: Tensor) -> Tensor:
        return (self.alpha * missed + (1 - self.alpha) * excess) / count.clamp(min=1)


class BinaryCrossEntropy(MaskLoss):
    """Binary cross entropy, the mean over the pixels; >= 0. "Mask2Former", section 3.2."""

    def pixel(self, z: Tensor, p: Tensor) -> Tensor:
        return F.softplus(z)

    def total(self, missed: Tensor, excess: Tensor, area: Tensor, count: Tensor) -> Tensor:
        return (missed + excess) / count.clamp(min=1)


class DiceLoss(MaskLoss):
    """Dice loss, 1 - (2 overlap + 1) / (area of the mask + area of the target + 1); in [0, 1).

    "V-Net", section 3; the mask's area is the sum of its probabilities.
    """

    def pixel(self, z: Tensor, p: Tensor) -> Tensor:
        return p

    def total(self, missed: Tensor, excess: Tensor, area: Tensor, count: Tensor) -> Tensor:
        overlap = area - missed
        return 1 - (2 * overlap + 1) / (overlap + excess + area + 1)


class WeightedLoss(NamedTuple):
    """A mask loss as a part of the training loss and of the matching cost."""

    name: str
    weight: float
    loss: MaskLoss


# Of MODEL.MASK_FORMER.MASK_LOSS.
MASK_LOSSES: dict[str, Callable[[], MaskLoss]] = {"focal": FocalLoss, "bce": BinaryCrossEntropy}

# The paper's (section 4, "Training settings").
DEFAULT_LOSSES = (
    WeightedLoss("loss_mask", 20.0, FocalLoss()),
    WeightedLoss("loss_dice", 1.0, DiceLoss()),
)


def paired_loss(
    loss: MaskLoss, logits: Tensor, targets: Tensor, valid: Tensor | None = None
) -> Tensor:
    """The loss of each mask against its own target.

    Args:
        loss: any mask loss.
        logits: (M, P), float32 or float64.
        targets: (M, P), bool or zeros and ones of an integer type; or fractions in [0, 1], which
            interpolate between what a pixel costs inside and outside of the target.
        valid: the pixels that count, bool (M, P) or (P,); None: all.

    Returns:
        (M,).
    """
    inside = targets.to(logits.dtype)
    if targets.is_floating_point():
        missing, exceeding = -logits, logits
    else:  # A pixel can be wrong in one way only.
        missing = exceeding = logits * torch.rsub(inside, 1, alpha=2)
    if valid is not None:
        inside = inside * valid

    def sums(cost: Tensor) -> tuple[Tensor, Tensor]:
        return (cost * inside).sum(1), (cost if valid is None else cost * valid).sum(1)

    missed, everywhere = within, _ = sums(loss.pixel(missing, missing.sigmoid()))
    if exceeding is not missing:
        within, everywhere = sums(loss.pixel(exceeding, exceeding.sigmoid()))
    return loss.total(missed, everywhere - within, inside.sum(1), _count(logits, valid))


def pairwise_losses(
    losses: Sequence[MaskLoss], logits: Tensor, targets: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Each loss of every mask against every target; the sums are matrix products.

    Args:
        losses: K of them.
        logits: (Q, P), float32 or float64.
        targets: (N, P), bool, zeros and ones, or fractions in [0, 1]; see `paired_loss`.
        valid: the pixels that count, bool (P,): all masks and targets are of one image.

    Returns:
        (K, Q, N).
    """
    inside = targets.to(logits.dtype)
    counted = logits.new_ones(logits.shape[1]) if valid is None else valid.to(logits.dtype)
    inside = inside * counted
    p = logits.sigmoid()
    flipped, right = -logits, 1 - p
    totals = []
    for loss in losses:
        missed = loss.pixel(flipped, right) @ inside.T
        cost = loss.pixel(logits, p)
        excess = (cost @ counted)[:, None] - cost @ inside.T
        totals.append(loss.total(missed, excess, inside.sum(1), counted.sum()))
    return torch.stack(totals)


def _count(logits: Tensor, valid: Tensor | None) -> Tensor:
    return logits.new_full((), logits.shape[1]) if valid is None else valid.sum(-1)
