"""Deformable convolution by hand, against grid_sample, in mixed precision, without its operator."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mask_former.layers import DeformableConv2d


def make(in_dim=4, out_dim=3, bias=True):
    torch.manual_seed(0)
    return DeformableConv2d(in_dim, out_dim, kernel_size=3, padding=1, bias=bias)


def by_grid_sample(conv, x, offset, modulation):
    """The usual form: every cell of the kernel samples the whole map, and is multiplied."""
    batch, _, height, width = x.shape
    y, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    result = conv.bias.view(1, -1, 1, 1).expand(batch, -1, height, width)
    for cell in range(9):
        at_y = y + cell // 3 - 1 + offset[:, 2 * cell]
        at_x = column + cell % 3 - 1 + offset[:, 2 * cell + 1]
        size = torch.tensor([width, height])
        grid = 2 * (torch.stack((at_x, at_y), -1) + 0.5) / size - 1
        samples = F.grid_sample(x, grid, align_corners=False) * modulation[:, cell, None]
        weight = conv.weight[:, :, cell // 3, cell % 3]
        result = result + torch.einsum("oc,bchw->bohw", weight, samples)
    return result


def test_outputs_and_gradients_are_those_of_grid_sample():
    conv = make()
    inputs = [torch.randn(2, 4, 5, 7), 2 * torch.randn(2, 18, 5, 7), torch.rand(2, 9, 5, 7)]
    results = []
    for form in (conv, lambda *x: by_grid_sample(conv, *x)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        output = form(*leaves)
        gradients = torch.autograd.grad(output.square().sum(), [*leaves, conv.weight])
        results.append((output, *gradients))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_without_offsets_it_is_a_convolution():
    conv = make(bias=False)
    x = torch.randn(1, 4, 6, 5)
    output = conv(x, torch.zeros(1, 18, 6, 5), torch.full((1, 9, 6, 5), 0.5))
    torch.testing.assert_close(output, 0.5 * F.conv2d(x, conv.weight, padding=1))


def test_the_first_of_a_cells_offsets_is_y():
    conv = DeformableConv2d(1, 1, kernel_size=1)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    x = torch.arange(12.0).view(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4)
    offset[:, 0], offset[:, 1] = 1.0, -0.5
    output = conv(x, offset, torch.ones(1, 1, 3, 4))
    # A row below, and half of a pixel to the left; outside there are zeros.
    assert output[0, 0].tolist() == [[2, 4.5, 5.5, 6.5], [4, 8.5, 9.5, 10.5], [0, 0, 0, 0]]


def test_it_computes_in_float32_in_mixed_precision():
    conv = make()
    x, offset = torch.randn(1, 4, 5, 5).bfloat16(), torch.randn(1, 18, 5, 5).bfloat16()
    modulation = torch.rand(1, 9, 5, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(x, offset, modulation)
    assert torch.equal(output, conv(x.float(), offset.float(), modulation.float()))


def test_a_torchvision_without_operators(monkeypatch):
    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace())
    with pytest.raises(ValueError, match="torchvision.*pip install torch torchvision"):
        make()
