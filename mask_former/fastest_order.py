"""The fastest order of operations that equals the published one but for rounding."""

import torch
from torch import nn

from mask_former.backbone.frozen_norm import fold_frozen_norms


def use_fastest_order(model: nn.Module) -> None:
    """Make `model` compute in its fastest order, for good; the weights and their names stay.

    * The channels of a pixel lie side by side in memory, which convolutions on CPUs, and in mixed
      precision on GPUs, like best.
    * Frozen norms are multiplied into the convolutions before them.
    * Attention is one operation, which holds no weights of all pairs (but in bfloat16 on CPUs,
      where that is slow).
    * Inference multiplies the queries with the kernels of the last convolution of the pixel
      decoder, see `pixel_decoder/projection.py`.
    * Linear layers on CPUs are convolutions, see `layers/linear.py`.
    """
    for module in model.modules():
        if hasattr(module, "published_rounding"):
            module.published_rounding = False
    fold_frozen_norms(model)
    model.to(memory_format=torch.channels_last)
