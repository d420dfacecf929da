"""Linear layers whose gradients, and on request results, are those of convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask_former.layers.linear import Linear, linear


def result_and_gradients(function, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs if x is not None]
    result = function(*inputs)
    return result, torch.autograd.grad(result.tanh().sum(), inputs)


@pytest.mark.parametrize("published_rounding", [True, False])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 4, 5), (0, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_a_product_of_matrices(shape, dtype, with_bias, published_rounding):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(6, 5, dtype=dtype)
    bias = torch.randn(6, dtype=dtype) if with_bias else None
    layer = Linear(5, 6)
    layer.published_rounding = published_rounding

    def ours(x, weight, bias=None):
        return linear(x, weight, bias, published_rounding=published_rounding)

    result, gradients = result_and_gradients(ours, x, weight, bias)
    expected, expected_gradients = result_and_gradients(F.linear, x, weight, bias)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradients, expected_gradients)
    if published_rounding:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("published_rounding", [True, False])
def test_rows_apart(published_rounding):
    x, weight = torch.randn(3, 5, 4).transpose(1, 2), torch.randn(6, 5)

    def ours(x, weight):
        return linear(x, weight, published_rounding=published_rounding)

    torch.testing.assert_close(
        result_and_gradients(ours, x, weight), result_and_gradients(F.linear, x, weight)
    )


@pytest.mark.parametrize("learns", [(True, False), (False, True)])
def test_gradients_that_nobody_wants(learns):
    x, layer = torch.randn(3, 5, requires_grad=learns[0]), Linear(5, 6).requires_grad_(learns[1])
    layer(x).sum().backward()
    assert (x.grad is not None, layer.weight.grad is not None) == learns


def test_autocast():
    layer, plain = Linear(5, 6), nn.Linear(5, 6)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 5)
    outputs = []
    for module in (layer, plain):
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(module(x))
        outputs[-1].float().square().sum().backward()
    assert outputs[0].dtype == torch.bfloat16
    assert torch.equal(*outputs)
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_a_module_rounds_as_it_is_told():
    torch.manual_seed(0)
    layer, x = Linear(1000, 50), torch.randn(200, 1000)
    expected = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), expected)
    layer.published_rounding = False
    assert torch.equal(layer(x), linear(x, layer.weight, layer.bias, published_rounding=False))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
