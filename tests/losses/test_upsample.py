"""Upsampling against PyTorch's, and its transpose against what a transpose is."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.losses.upsample import upsampling

SIZE = (5, 7)


@pytest.mark.parametrize(
    "new_size", [(20, 28), (15, 14), (5, 7), (35, 7), (21, 28), (4, 9)], ids=lambda x: f"{x}"
)
def test_up_and_down(new_size):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(3, *SIZE, generator=generator, dtype=torch.float64)
    scale = upsampling(SIZE, new_size, masks)
    expected = F.interpolate(masks[:, None], size=new_size, mode="bilinear")[:, 0]
    torch.testing.assert_close(scale.up(masks), scale.arrange(expected))

    gradient = torch.randn(3, new_size[0] * new_size[1], generator=generator, dtype=torch.float64)
    there = (scale.up(masks) * gradient).sum(1)
    back = (masks * scale.down(gradient)).sum((1, 2))
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize("new_size", [(10, 21), (11, 8)])
def test_arranging_loses_no_pixel(new_size):
    pixels = torch.arange(2 * new_size[0] * new_size[1]).view(2, *new_size)
    arranged = upsampling(SIZE, new_size, torch.zeros(1)).arrange(pixels)
    assert arranged.shape == (2, new_size[0] * new_size[1])
    assert arranged.sort(1).values.equal(pixels.flatten(1))
