"""Activation checkpointing (arXiv:1604.06174): memory for time, in the training of backbones."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # every BatchNorm and InstanceNorm
from torch.utils.checkpoint import checkpoint

from mask_former.backbone.swin import Block
from mask_former.errors import UserError

BLOCKS = (Block, CNNBlockBase)


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Let every block of `backbone` keep its input alone, and compute the rest again for gradients.

    Losses and gradients stay what they are: dropout and drop path draw the same numbers again, and
    batch norms gather statistics once. Names of weights stay, too.

    Raises:
        ValueError: the backbone has no blocks of a known kind.
    """
    blocks = [module for module in backbone.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise UserError(
            f"MODEL.BACKBONE.ACTIVATION_CHECKPOINTING knows blocks of Swin Transformers and "
            f"ResNets; {type(backbone).__name__} has none. Set it to False."
        )
    for block in blocks:
        block.forward = partial(_forward, type(block).forward, block)


def _forward(forward: Any, block: nn.Module, *args: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(block, *args)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _without_statistics(block)

    return checkpoint(forward, block, *args, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Keep running means and counters of batch norms where they are."""
    norms = [module for module in block.modules() if isinstance(module, _NormBase)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
