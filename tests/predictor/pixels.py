"""What a pixel decoder would make, for predictors."""

import torch

from mask_former.structures import PixelFeatures


def make_pixels(channels=(8, 8, 8), height=2, width=3):
    generator = torch.Generator().manual_seed(0)
    memory = tuple(
        torch.randn(2, c, height * 2**i, width * 2**i, generator=generator)
        for i, c in enumerate(channels)
    )
    return PixelFeatures(torch.randn(2, 6, 8 * height, 8 * width, generator=generator), memory)
