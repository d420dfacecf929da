"""Losses of upsampled masks against those of masks that are upsampled first, and numerically."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mask_former.losses import dense as matched_losses
from mask_former.losses import fused as fused_losses
from mask_former.losses import mask as losses
from mask_former.losses.mask import dice_loss, sigmoid_focal_loss


@pytest.fixture(params=[False, True], ids=["in place", "fused"])
def matched_mask_losses(request, monkeypatch):
    """In both forms; what is left to a compiler is here computed as it is written."""
    monkeypatch.setattr(fused_losses, "compiled", lambda function: function)
    return partial(matched_losses.matched_mask_losses, compiled=request.param)


@pytest.fixture(params=[(24, 36), (18, 18), (23, 36)], ids=["x4", "x3 and x2", "any size"])
def size(request):
    """Of the images; the masks' is (6, 9)."""
    return request.param


@pytest.fixture
def inputs(size):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(7, 6, 9, generator=generator, dtype=torch.float64)
    targets = torch.rand(3, *size, generator=generator) < 0.4
    return logits.requires_grad_(), targets, torch.tensor([0, 1, 2, 0, 1, 2, 2])


@pytest.fixture
def valid(size):
    """Of two images, and the image of each mask."""
    valid = torch.rand(2, *size, generator=torch.Generator().manual_seed(3)) < 0.6
    return {"valid": valid, "image": torch.tensor([0, 0, 1, 0, 0, 1, 1])}


def reference(logits, targets, segment, valid=None, image=None):
    x = F.interpolate(logits[:, None], size=targets.shape[-2:], mode="bilinear").flatten(1)
    t = targets[segment].flatten(1)
    v = None if valid is None else valid[image].flatten(1)
    return sigmoid_focal_loss(x, t, valid=v), dice_loss(x, t, valid=v)


@pytest.mark.parametrize("all_valid", [True, False])
@pytest.mark.parametrize("chunk", [1, 2000, 1 << 20])
def test_equals_the_losses_of_the_upsampled_masks(
    matched_mask_losses, inputs, valid, chunk, all_valid, monkeypatch
):
    monkeypatch.setitem(losses._CHUNK_PIXELS, "cpu", chunk)
    logits = inputs[0]
    weights = torch.linspace(-1, 2, 14, dtype=torch.float64).view(2, 7)
    results = []
    for function in (matched_mask_losses, reference):
        values = torch.stack(function(*inputs, **({} if all_valid else valid)))
        (gradient,) = torch.autograd.grad((values * weights).sum(), logits)
        results.append((values, gradient))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("all_valid", [True, False])
def test_gradient_is_numerically_right(matched_mask_losses, inputs, valid, all_valid):
    logits, targets, segment = inputs
    options = {"alpha": 0.3, "gamma": 1.5} | ({} if all_valid else valid)

    def function(x):
        return matched_mask_losses(x, targets, segment, **options)

    assert torch.autograd.gradcheck(function, (logits,))


def test_an_image_without_valid_pixels_has_no_gradient(matched_mask_losses, inputs, valid):
    logits, targets, segment = inputs
    valid["valid"][1] = False
    values = torch.stack(matched_mask_losses(logits, targets, segment, **valid))
    values.sum().backward()
    of_image = valid["image"] == 1
    assert values[:, of_image].abs().max() == logits.grad[of_image].abs().max() == 0
    assert logits.grad[~of_image].abs().amax((1, 2)).min() > 0


def test_no_mask_has_a_gradient_of_zeros(matched_mask_losses):
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    empty = torch.zeros(0, 16, 16, dtype=torch.bool)
    focal, dice = matched_mask_losses(logits, empty, torch.zeros(0, dtype=torch.int64))
    (focal.sum() + dice.sum()).backward()
    assert logits.grad.shape == (0, 4, 4)


def test_in_inference_mode(matched_mask_losses, inputs):
    with torch.inference_mode():
        values = matched_mask_losses(*inputs)
    torch.testing.assert_close(values, reference(*inputs))
