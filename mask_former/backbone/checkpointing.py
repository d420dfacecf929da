"""Activation checkpointing (arXiv:1604.06174): memory for time, in the training of backbones."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.modeling.backbone import ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask_former.errors import UserError


def set_grad_checkpointing(backbone: nn.Module) -> None:
    """Let every block of `backbone` keep its input alone, and compute the rest again for gradients.

    Losses and gradients stay what they are: dropout and drop path draw the same numbers again, and
    batch norms gather statistics once. Names of weights stay, too.

    Args:
        backbone: a ResNet of Detectron2, or one with timm's method `set_grad_checkpointing`.

    Raises:
        UserError: it is neither.
    """
    if isinstance(backbone, ResNet):
        for i, name in enumerate(backbone.stage_names):
            stage = CheckpointedSequential(*backbone.stages[i])
            backbone.stages[i] = stage
            setattr(backbone, name, stage)
    elif hasattr(backbone, "set_grad_checkpointing"):
        backbone.set_grad_checkpointing()
    else:
        raise UserError(
            "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING knows Swin Transformers and ResNets, and not "
            f"{type(backbone).__name__}. Set it to False."
        )


class CheckpointedSequential(nn.Sequential):
    """Modules one after the other, each of which computes its activations again for gradients."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = checkpointed(module, x)
        return x


def checkpointed(module: nn.Module, *inputs: Any) -> Tensor:
    """`module(*inputs)`, of which nothing but the inputs is kept for the gradients."""
    if not torch.is_grad_enabled():
        return module(*inputs)
    norms = [m for m in module.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    if not norms:
        return checkpoint(module, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _without_statistics(norms)

    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)


def linear_of(function: Callable[[Tensor], Tensor], x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(function(x))` for a cheap function, of which the gradients keep nothing but `x`.

    What the layer is given is computed again; the product is not, since PyTorch stops as soon as it
    has what was kept. Mask2Former with Swin-T trains on a CPU with 0.86 of the memory in 1.02 times
    the time (Intel Xeon), MaskFormer with 0.93 in 1.05 (AMD EPYC). On GPUs all is kept: there the
    host would have more to do than the device. So it is on the meta device, where their memory is
    estimated.
    """
    compiling = torch.compiler.is_compiling()
    if x.device.type != "cpu" or compiling or not torch.is_grad_enabled():
        return linear(function(x))
    return checkpoint(lambda y: linear(function(y)), x, use_reentrant=False)


@contextmanager
def _without_statistics(norms: list[nn.Module]) -> Iterator[None]:
    """Keep running means and counters of batch norms where they are."""
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
