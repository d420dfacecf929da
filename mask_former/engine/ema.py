"""An exponential moving average (EMA) of the weights, which is better than the last weights."""

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mask_former.errors import UserError

Update = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]


def build_ema(cfg: CfgNode, model: nn.Module) -> AveragedModel | None:
    """The EMA of the weights and statistics of `model` that SOLVER.EMA_DECAY asks for; None for 0.

    Its `module` is in evaluation mode, and computes no gradients of its weights.

    Raises:
        UserError: SOLVER.EMA_DECAY is not in [0, 1).
    """
    decay = cfg.SOLVER.EMA_DECAY
    if not 0 <= decay < 1:
        raise UserError(
            f"SOLVER.EMA_DECAY is {decay}, but must be at least 0 (no average) and less than 1."
        )
    if not decay:
        return None
    ema = AveragedModel(model, multi_avg_fn=ema_with_warmup(decay), use_buffers=True)
    return ema.eval().requires_grad_(False)


def ema_with_warmup(decay: float) -> Update:
    """How `AveragedModel` updates tensors of one device and dtype.

    Update n (0, 1, ...) keeps `min(decay, n / (9 + n))` of what the average was, so that the random
    weights of the start are forgotten soon. What is not a float, such as the number of batches that
    a norm has seen, is copied.

    Args:
        decay: in [0, 1); the average is about that of the last 1 / (1 - decay) updates.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], num_averaged: Tensor) -> None:
        if averages[0].is_floating_point():
            n = int(num_averaged)
            torch._foreach_lerp_(averages, values, 1 - min(decay, n / (9 + n)))
        else:
            torch._foreach_copy_(averages, values)

    return update
