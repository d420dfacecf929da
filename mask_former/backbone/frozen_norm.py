"""Convolutions that carry their frozen batch norm in their weights."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormConv2d(Conv2d):
    """Detectron2's `Conv2d` without bias, followed by a `FrozenBatchNorm2d`, as one convolution.

    A frozen norm is a scale and a shift of each channel, so that scaling the kernels, which are
    few, does what scaling the pixels does, and the shift is a bias. Only the kernels learn; names
    and values of the weights are those of the two modules.

    Inference scales the kernels once and keeps them, until the weights change (other than through
    `.data`), the mode is set, or there is a pass with gradients.
    """

    _kept: tuple[list[Any], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        if torch.is_grad_enabled():
            self._kept = None  # an update may follow, and fused ones do not raise the version
        kernels, shift = self._scaled_once(x.device.type) if self._keeps() else self._scaled()
        x = F.conv2d(x, kernels, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def train(self, mode: bool = True) -> "FrozenNormConv2d":
        self._kept = None
        return super().train(mode)

    def _keeps(self) -> bool:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self.weight.is_meta:
            return False  # meta: tensors without values have no autocast to ask for
        # Tensors that were made in inference mode have no version.
        return not any(x.is_inference() for x in (self.weight, *self.norm.buffers()))

    def _scaled(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        return self.weight * scale[:, None, None, None], shift

    def _scaled_once(self, device: str) -> tuple[Tensor, Tensor]:
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self.weight.dtype
        tensors = (self.weight, *self.norm.buffers())
        state = [dtype, *((x.data_ptr(), x._version) for x in tensors)]
        if self._kept is None or self._kept[0] != state:
            kernels, shift = self._scaled()
            self._kept = state, (kernels.to(dtype), shift.to(dtype))
        return self._kept[1]


def fold_frozen_norms(model: nn.Module) -> None:
    """Make every convolution of `model` that a frozen norm follows a `FrozenNormConv2d`."""
    for module in model.modules():
        folds = type(module) is Conv2d and type(module.norm) is FrozenBatchNorm2d
        if folds and module.bias is None:
            # The same module with another forward: hooks, parameters and their names stay.
            module.__class__ = FrozenNormConv2d
