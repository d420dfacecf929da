"""Convolutions that carry their frozen batch norm in their weights."""

import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormConv2d(Conv2d):
    """Detectron2's `Conv2d` without bias, followed by a `FrozenBatchNorm2d`, as one convolution.

    A frozen norm is a scale and a shift of each channel, so that scaling the kernels, which are
    few, does what scaling the pixels does, and the shift is a bias. Only the kernels learn; names
    and values of the weights are those of the two modules.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        kernels = self.weight * scale[:, None, None, None]
        x = F.conv2d(x, kernels, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


def fold_frozen_norms(model: nn.Module) -> None:
    """Make every convolution of `model` that a frozen norm follows a `FrozenNormConv2d`."""
    for module in model.modules():
        folds = type(module) is Conv2d and type(module.norm) is FrozenBatchNorm2d
        if folds and module.bias is None:
            # The same module with another forward: hooks, parameters and their names stay.
            module.__class__ = FrozenNormConv2d
