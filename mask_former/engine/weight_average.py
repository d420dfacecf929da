"""A moving average of the weights, which is better than the weights that it follows."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def build_weight_average(cfg: CfgNode, model: nn.Module) -> AveragedModel | None:
    """The average that SOLVER.EMA_DECAY asks for; None for 0.

    Raises:
        ValueError: it is not in [0, 1).
    """
    decay = cfg.SOLVER.EMA_DECAY
    if not 0 <= decay < 1:
        raise ValueError(
            f"SOLVER.EMA_DECAY is {decay}, but must be at least 0 (no average) and less than 1."
        )
    return moving_average(model, decay) if decay else None


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` whose weights and statistics follow those of `model` exponentially.

    After update n it keeps `min(decay, (1 + n) / (10 + n))` of what it was, so that the random
    weights of the start are forgotten soon.

    Args:
        decay: in [0, 1); the average is about that of the last 1 / (1 - decay) updates.
    """

    @torch.no_grad()
    def follow(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
        if averages[0].is_floating_point():
            n = updates.item()
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + n) / (10 + n)))
        else:  # the batches that a norm has seen
            torch._foreach_copy_(averages, values)

    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
