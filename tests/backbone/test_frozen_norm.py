"""Convolutions with their frozen norm folded into them."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from mask_former.backbone.frozen_norm import FrozenNormConv2d, fold_frozen_norms


def make():
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(6)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    conv = Conv2d(3, 6, 3, padding=1, bias=False, norm=norm, activation=nn.functional.relu)
    model = nn.Sequential(conv)
    x = torch.randn(2, 3, 8, 8)
    expected = model(x).detach()
    fold_frozen_norms(model)
    assert type(model[0]) is FrozenNormConv2d
    return model, x, expected


def test_result_and_gradient():
    model, x, expected = make()
    torch.testing.assert_close(model(x), expected)
    (gradient,) = torch.autograd.grad(model(x).sum(), [model[0].weight])
    conv = model[0]
    conv.__class__ = Conv2d
    (expected,) = torch.autograd.grad(conv(x).sum(), [conv.weight])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("change", ["weight", "norm.running_mean", "norm.weight", "load", "dtype"])
@torch.no_grad()
def test_kept_kernels_follow_the_weights(change):
    model, x, expected = make()
    model.eval()
    for _ in range(2):
        torch.testing.assert_close(model(x), expected)
    if change == "load":
        model.load_state_dict({name: 2 * t for name, t in model.state_dict().items()})
    elif change == "dtype":
        model, x = model.double(), x.double()
    else:
        dict([*model[0].named_parameters(), *model[0].named_buffers()])[change].mul_(3)
    found = model(x)
    model[0].__class__ = Conv2d
    torch.testing.assert_close(found, model(x))


@torch.no_grad()
def test_kernels_are_kept_in_inference_only_and_in_its_precision():
    model, x, expected = make()
    model.eval()(x)
    assert model[0]._kept is not None
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(model(x), expected)
    model.train()
    assert model[0]._kept is None


def test_kept_kernels_follow_an_optimizer_that_raises_no_version():
    model, x, _ = make()
    with torch.no_grad():
        model.eval()(x)
    model(x).sum().backward()
    torch.optim.AdamW(model.parameters(), lr=1.0, fused=True).step()
    with torch.no_grad():
        found = model(x)
        model[0].__class__ = Conv2d
        torch.testing.assert_close(found, model(x))


@torch.inference_mode()
def test_weights_that_were_made_in_inference_mode():
    model, x, expected = make()
    for _ in range(2):
        torch.testing.assert_close(model.eval()(x), expected)


@torch.no_grad()
def test_shapes_without_values():
    model, x, expected = make()
    assert model.eval().to("meta")(x.to("meta")).shape == expected.shape


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
