"""Mask losses: focal, binary cross entropy and dice, each from one formula.

A mask loss says what a pixel costs that is wrong with probability p, and what the sums of that are
for a whole mask. With z, the mask's logit x outside of the target and -x inside, p = sigmoid(z).
Everything else derives from it, once for all losses: the paired form, which compares mask i with
target i and trains the model, the pairwise form, which compares every mask with every target and is
the cost of the matching, and, by autograd, the gradients.

In shapes, M masks (or Q masks and N targets) have P pixels, or points, each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskLoss(ABC):
    """How far a mask is from its target.

    To add one, derive a class, and put it into `MASK_LOSSES` for configs to name it.
    """

    @abstractmethod
    def pixel(self, p: Tensor, entropy: Tensor) -> Tensor:
        """What each pixel costs.

        Args:
            p: its probability of being wrong, in [0, 1], any shape.
            entropy: its cross entropy, -log(1 - p), also where p is as good as 1.
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
        gamma: how fast the weight of well-classified pixels falls: 0 (it does not), or >= 1.

    Raises:
        ValueError: `gamma` is negative or between 0 and 1, for which a pixel that is right beyond
            doubt has an infinite slope.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        if gamma != 0 and not gamma >= 1:
            raise ValueError(f"gamma is {gamma}; it must be 0 or at least 1")
        self.alpha = alpha
        self.gamma = gamma

    def pixel(self, p: Tensor, entropy: Tensor) -> Tensor:
        return p.pow(self.gamma) * entropy

    def total(self, missed: Tensor, excess: Tensor, area: Tensor, count: Tensor) -> Tensor:
        return (self.alpha * missed + (1 - self.alpha) * excess) / count.clamp(min=1)


class BinaryCrossEntropy(MaskLoss):
    """Binary cross entropy, the mean over the pixels; >= 0. "Mask2Former", section 3.2."""

    def pixel(self, p: Tensor, entropy: Tensor) -> Tensor:
        return entropy

    def total(self, missed: Tensor, excess: Tensor, area: Tensor, count: Tensor) -> Tensor:
        return (missed + excess) / count.clamp(min=1)


class DiceLoss(MaskLoss):
    """Dice loss, 1 - (2 overlap + 1) / (area of the mask + area of the target + 1); in [0, 1).

    "V-Net", section 3; the mask's area is the sum of its probabilities.
    """

    def pixel(self, p: Tensor, entropy: Tensor) -> Tensor:
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


def paired_losses(
    losses: Sequence[MaskLoss], logits: Tensor, targets: Tensor, valid: Tensor | None = None
) -> list[Tensor]:
    """Each loss of each mask against its own target.

    Args:
        losses: K of them.
        logits: (M, P), float32 or float64.
        targets: (M, P), bool or zeros and ones of an integer type; or fractions in [0, 1], which
            interpolate between what a pixel costs inside and outside of the target.
        valid: the pixels that count, bool (M, P) or (P,); None: all.

    Returns:
        K x (M,): apart, so that the gradient of one asks nothing of the others.
    """
    inside = targets.to(logits)
    fractions = targets.is_floating_point()
    if fractions:
        exceeding, missing = _exceeding_and_missing(logits)
    else:  # A pixel can be wrong in one way only.
        exceeding = _wrong(logits * torch.rsub(inside, 1, alpha=2))
    counted = None if valid is None else valid.to(logits)
    area = inside.sum(1) if counted is None else (inside * counted).sum(1)
    count = logits.new_full((), logits.shape[1]) if counted is None else counted.sum(-1)

    def sums(cost: Tensor) -> tuple[Tensor, Tensor]:
        cost = cost if counted is None else cost * counted
        return (cost * inside).sum(1), cost.sum(1)

    totals = []
    for loss in losses:
        within, everywhere = sums(loss.pixel(*exceeding))
        missed = sums(loss.pixel(*missing))[0] if fractions else within
        totals.append(loss.total(missed, everywhere - within, area, count))
    return totals


def paired_loss(
    loss: MaskLoss, logits: Tensor, targets: Tensor, valid: Tensor | None = None
) -> Tensor:
    """One loss of each mask, (M,); see `paired_losses`."""
    return paired_losses([loss], logits, targets, valid)[0]


def pairwise_losses(
    losses: Sequence[MaskLoss], logits: Tensor, targets: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Each loss of every mask against every target; the sums are matrix products.

    Args:
        losses: K of them.
        logits: (Q, P), float32 or float64.
        targets: (N, P), bool, zeros and ones, or fractions in [0, 1]; see `paired_losses`.
        valid: the pixels that count, bool (P,): all masks and targets are of one image.

    Returns:
        (K, Q, N).
    """
    counted = logits.new_ones(logits.shape[1]) if valid is None else valid.to(logits)
    inside = targets.to(logits) * counted
    regions = torch.cat((inside, counted[None]))  # (N + 1, P)
    exceeding, missing = _exceeding_and_missing(logits)
    totals = []
    for loss in losses:
        sums = (regions @ loss.pixel(*exceeding).T).T  # the faster order, of few segments
        excess = sums[:, -1:] - sums[:, :-1]
        missed = (inside @ loss.pixel(*missing).T).T
        totals.append(loss.total(missed, excess, inside.sum(1), counted.sum()))
    return torch.stack(totals)


def compile_losses(function: Callable[..., Any]) -> Callable[..., Any]:
    """`paired_losses` or `pairwise_losses`, compiled for GPUs when it first runs there, once for
    all sizes.

    PyTorch 2.15 compiles them to code that overwrites memory on CPUs. It takes buffers of unknown
    sizes for equal ones, too, and so none are used twice.
    """
    compiled = torch.compile(function, dynamic=True, options={"allow_buffer_reuse": False})

    def run(losses: Sequence[MaskLoss], logits: Tensor, *others: Tensor | None) -> Any:
        return (function if logits.device.type == "cpu" else compiled)(losses, logits, *others)

    return run


def _exceeding_and_missing(logits: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What `MaskLoss.pixel` takes, of pixels outside of a target and inside."""
    p, entropy = _wrong(logits)
    return (p, entropy), (1 - p, entropy - logits)


def _wrong(z: Tensor) -> tuple[Tensor, Tensor]:
    """What `MaskLoss.pixel` takes: p = sigmoid(z), and its cross entropy, softplus(z)."""
    return z.sigmoid(), F.softplus(z)
