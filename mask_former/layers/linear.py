"""Linear layers at the rate of the processor."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: (..., C) and weights (D, C) -> (..., D), but for rounding.

    Float32 on a CPU takes the way of convolutions, whose kernels are one pixel here. PyTorch
    computes these with oneDNN, but products of float32 matrices with MKL, which leaves the AVX-512
    of AMD's processors unused: less than half their rate.
    """
    if not _as_convolution(x):
        return F.linear(x, weight, bias)
    # A map of one row whose channels lie side by side, as the rows of `x` do: no copies.
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    pixels = F.conv2d(pixels, weight[:, :, None, None], bias)
    return pixels.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _as_convolution(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.numel() == 0 or not torch.backends.mkldnn.is_available():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    return (torch.get_autocast_dtype("cpu") if autocast else x.dtype) == torch.float32


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return linear(x, self.weight, self.bias)


def speed_up_linear(model: nn.Module) -> None:
    """Make every `torch.nn.Linear` of `model` a `Linear`; weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
