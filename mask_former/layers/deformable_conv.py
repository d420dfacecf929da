"""Modulated deformable convolution (DCNv2, arXiv:1811.11168), by torchvision's operator."""

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mask_former.errors import UserError
from mask_former.structures import at_least_float32


class DeformableConv2d(nn.Conv2d):
    """A convolution whose kernel cells read where they are told, each with a weight.

    Computes in float32 or float64, mixed precision or not: 16 bits are too few for positions.

    Raises:
        UserError: torchvision came without its operators.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(torch.ops.torchvision, "deform_conv2d"):
            raise UserError(
                "Deformable convolutions are an operator of torchvision's, which the torchvision "
                "here lacks: it was built for another PyTorch, or without operators. Install the "
                "two together, from one place: `pip install torch torchvision`."
            )

    def forward(self, x: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (B, C, h, w).
            offset: of each cell of the kernel from its place, in pixels, (B, 2 * cells, h', w'); y
                and x of a cell are neighbours.
            modulation: factor of each cell, (B, cells, h', w').

        Returns:
            (B, C', h', w'), float32 or float64.
        """
        return deform_conv2d(
            at_least_float32(x),
            at_least_float32(offset),
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=at_least_float32(modulation),
        )
