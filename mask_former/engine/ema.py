"""A moving average of the weights, which is better than the weights that it follows."""

from copy import deepcopy
from itertools import chain

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from mask_former.errors import UserError


class WeightAverage:
    """A copy of `model` whose weights and statistics follow those of `model` exponentially.

    Update n (0, 1, ...) keeps `min(decay, n / (9 + n))` of what the average was, so that the random
    weights of the start are forgotten soon.

    Args:
        decay: in [0, 1); the average is about that of the last 1 / (1 - decay) updates.

    Attributes:
        model: the copy; it is in evaluation mode, and computes no gradients of its weights.
        updates: how many there have been.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow `model`, which may be wrapped by DistributedDataParallel."""
        keep = min(self.decay, self.updates / (9 + self.updates))
        averages, values = _tensors(self.model), _tensors(model)
        floats = [average.is_floating_point() for average in averages]
        torch._foreach_lerp_(_where(averages, floats), _where(values, floats), 1 - keep)
        # What is not a float, such as the number of batches that a norm has seen, is copied.
        others = [not x for x in floats]
        for average, value in zip(_where(averages, others), _where(values, others), strict=True):
            average.copy_(value)
        self.updates += 1


def build_weight_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    """The average that SOLVER.EMA_DECAY asks for; None for 0.

    Raises:
        ValueError: it is not in [0, 1).
    """
    decay = cfg.SOLVER.EMA_DECAY
    if not 0 <= decay < 1:
        raise UserError(
            f"SOLVER.EMA_DECAY is {decay}, but must be at least 0 (no average) and less than 1."
        )
    return WeightAverage(model, decay) if decay else None


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))


def _where(tensors: list[Tensor], chosen: list[bool]) -> list[Tensor]:
    return [tensor for tensor, choose in zip(tensors, chosen, strict=True) if choose]
