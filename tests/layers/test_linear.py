"""Linear layers as convolutions: torch.nn.Linear, but for rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask_former.layers.linear import Linear, linear, speed_up_linear


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 4, 5), (0, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_a_product_of_matrices(shape, dtype, with_bias):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(6, 5, dtype=dtype)
    bias = torch.randn(6, dtype=dtype) if with_bias else None
    outputs, gradients = [], []
    for function in (linear, F.linear):
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
        outputs.append(function(*inputs))
        gradients.append(torch.autograd.grad(outputs[-1].tanh().sum(), inputs))
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_rows_apart():
    x, weight = torch.randn(3, 5, 4).transpose(1, 2), torch.randn(6, 5)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_autocast():
    """Bits of torch.nn.Linear: there is nothing to gain."""
    layer = nn.Linear(5, 6)
    x = torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        output = linear(x, layer.weight, layer.bias)
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, layer(x))


def test_speed_up():
    model = nn.Sequential(nn.Linear(5, 6), nn.ModuleDict({"a": nn.Linear(6, 2, bias=False)})["a"])
    x, state = torch.randn(3, 5), model.state_dict()
    before = model(x)
    speed_up_linear(model)
    assert [type(module) for module in model] == [Linear, Linear]
    assert model.state_dict().keys() == state.keys()
    torch.testing.assert_close(model(x), before)


def test_speed_up_leaves_other_kinds():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(2, 2))
    speed_up_linear(model)
    assert type(model[0]) is Doubled
