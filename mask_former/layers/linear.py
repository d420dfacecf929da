"""Linear layers at the rate of the processor.

PyTorch computes products of float32 matrices on a CPU with MKL, which leaves the AVX-512 of AMD's
processors unused, and convolutions with oneDNN, which uses it: twice the rate and more. A linear
layer is a convolution whose kernels are one pixel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

_HAS_ONEDNN = torch.backends.mkldnn.is_available()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, published_rounding: bool = True
) -> Tensor:
    """`torch.nn.functional.linear`: (..., C) and weights (D, C) -> (..., D).

    In float32 on a CPU the gradients are those of a convolution, and without `published_rounding`
    the result is, too: the same but for rounding.
    """
    if not _is_slow(x):
        return F.linear(x, weight, bias)
    if published_rounding:
        return _LinearWithFastGradients.apply(x, weight, bias)
    pixels = F.conv2d(_pixels(x), weight[:, :, None, None], bias)
    return _rows(pixels).reshape(*x.shape[:-1], len(weight))


def _is_slow(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.numel() == 0 or not _HAS_ONEDNN:
        return False
    autocast = torch.is_autocast_enabled("cpu")
    return (torch.get_autocast_dtype("cpu") if autocast else x.dtype) == torch.float32


def _pixels(x: Tensor) -> Tensor:
    """(..., C) -> a map of one row, (1, C, 1, ...), whose channels lie side by side: no copy."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


def _rows(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 2, 3, 1)


class _LinearWithFastGradients(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            _pixels(grad),
            _pixels(x),
            weight[:, :, None, None],
            bias_sizes=[len(weight)],
            stride=[1, 1],
            padding=[0, 0],
            dilation=[1, 1],
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=list(ctx.needs_input_grad),
        )
        if dx is not None:
            dx = _rows(dx).reshape(x.shape)
        return dx, None if dweight is None else dweight.flatten(1), dbias


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    published_rounding = True

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return linear(x, self.weight, self.bias, published_rounding=self.published_rounding)
