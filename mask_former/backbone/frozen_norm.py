"""Convolutions that carry their frozen batch norm in their kernels."""

import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormConv2d(nn.Module):
    """A convolution without bias and the `FrozenBatchNorm2d` after it, as one convolution.

    A frozen norm is a scale and a shift of each channel, so that scaling the kernels, which are
    few, does what scaling the pixels does, and the shift is a bias. Names and values of the
    weights are those of Detectron2's `Conv2d` with a norm.

    Args:
        conv: whose parameters and norm are taken over.
    """

    def __init__(self, conv: Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.norm = conv.norm
        self.activation = conv.activation
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size = conv.kernel_size
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        kernels = self.weight * scale[:, None, None, None]
        x = F.conv2d(x, kernels, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


def fold_frozen_norms(model: nn.Module) -> None:
    """Replace every convolution in `model` that a frozen norm follows by a `FrozenNormConv2d`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            folds = type(child) is Conv2d and type(child.norm) is FrozenBatchNorm2d
            if folds and child.bias is None:
                setattr(parent, name, FrozenNormConv2d(child))
