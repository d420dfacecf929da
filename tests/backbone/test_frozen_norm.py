"""Convolutions with their frozen norm folded into them."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from mask_former.backbone.frozen_norm import FrozenNormConv2d, fold_frozen_norms


def make(**options):
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(6)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    options = {"bias": False, "norm": norm, "activation": nn.functional.relu, **options}
    return nn.Sequential(Conv2d(3, 6, 3, **options)), torch.randn(2, 3, 8, 9)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"dilation": 2}], ids=str)
def test_result_gradient_and_names_stay(options):
    model, x = make(**options)
    names, expected = list(model.state_dict()), model(x)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), model.parameters())
    fold_frozen_norms(model)
    assert type(model[0]) is FrozenNormConv2d
    assert list(model.state_dict()) == names
    found = model(x)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), model.parameters())
    torch.testing.assert_close(gradient, expected_gradient)


@torch.no_grad()
def test_shapes_without_values():
    model, x = make()
    fold_frozen_norms(model)
    assert model.to("meta")(x.to("meta")).shape == (2, 6, 6, 7)


def test_only_convolutions_before_frozen_norms_are_folded():
    model = nn.ModuleList(
        Conv2d(2, 2, 1, bias=bias, norm=norm)
        for bias, norm in [
            (False, FrozenBatchNorm2d(2)),
            (False, None),
            (False, nn.BatchNorm2d(2)),
            (True, FrozenBatchNorm2d(2)),
        ]
    )
    fold_frozen_norms(model)
    assert [type(m) is FrozenNormConv2d for m in model] == [True, False, False, False]
