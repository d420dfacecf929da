"""An exponential moving average (EMA) of the weights, which is better than the last weights."""

from copy import deepcopy

import torch
from detectron2.config import CfgNode
from torch import nn

from mask_former.errors import UserError


class EMA:
    """The average of the weights and statistics of a model that is trained.

    PyTorch's `AveragedModel` would be the same, but counts on the device of the weights, for which
    the host waits in every step.

    Args:
        model: whose weights are averaged.
        decay: in [0, 1); the average is about that of the last 1 / (1 - decay) updates.

    Attributes:
        module: a copy of `model` with the average, in evaluation mode, without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        """Add the weights after an iteration, counted from 0, to the average.

        `min(decay, n / (9 + n))` of what the average was is kept in iteration n, so that the random
        weights of the start are forgotten soon. What is not a float, such as the number of batches
        that a norm has seen, is copied.
        """
        averages, values = ((*m.parameters(), *m.buffers()) for m in (self.module, model))
        pairs = list(zip(averages, values, strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        new = 1 - min(self.decay, iteration / (9 + iteration))
        torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), new)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def build_ema(cfg: CfgNode, model: nn.Module) -> EMA | None:
    """The EMA of `model` that SOLVER.EMA_DECAY asks for; None for 0.

    Raises:
        UserError: SOLVER.EMA_DECAY is not in [0, 1).
    """
    decay = cfg.SOLVER.EMA_DECAY
    if not 0 <= decay < 1:
        raise UserError(
            f"SOLVER.EMA_DECAY is {decay}, but must be at least 0 (no average) and less than 1."
        )
    return EMA(model, decay) if decay else None
