"""Mask losses against hand-computed values, each other, torchvision and numeric gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from mask_former import losses
from mask_former.losses import (
    dice_loss,
    matched_mask_losses,
    pairwise_dice_loss,
    pairwise_sigmoid_focal_loss,
    sigmoid_focal_loss,
)


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 40, generator=generator, dtype=torch.float64)
    targets = torch.rand(5, 40, generator=generator) < 0.4
    return logits, targets


def test_focal_loss_of_one_undecided_pixel():
    # p = 1/2: alpha_t * (1/2)^2 * ln 2.
    loss = sigmoid_focal_loss(torch.zeros(2, 1), torch.tensor([[True], [False]]))
    assert loss.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_focal_loss_equals_torchvision(masks):
    logits, targets = masks
    expected = torchvision_focal_loss(logits, targets.double(), alpha=0.3, gamma=1.5).mean(1)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=1.5), expected)


def test_dice_loss_by_hand():
    # p = (1, 1/2, 1/2, 0), t = (1, 1, 0, 0): overlap 1.5, areas 2 + 2.
    logits = torch.tensor([[100.0, 0.0, 0.0, -100.0]])
    targets = torch.tensor([[True, True, False, False]])
    assert dice_loss(logits, targets).item() == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 2 + 1))


def test_an_empty_target_wants_an_empty_mask():
    targets = torch.zeros(1, 50, dtype=torch.bool)
    assert dice_loss(torch.full((1, 50), -100.0), targets).item() == pytest.approx(0)
    assert dice_loss(torch.full((1, 50), 100.0), targets).item() == pytest.approx(1 - 1 / 51)


@pytest.mark.parametrize(
    ("pairwise", "paired"),
    [(pairwise_sigmoid_focal_loss, sigmoid_focal_loss), (pairwise_dice_loss, dice_loss)],
)
def test_pairwise_equals_paired_for_every_pair(masks, pairwise, paired):
    logits, targets = masks
    targets = targets[:3]
    expected = torch.stack([paired(logits, t.expand_as(logits)) for t in targets], 1)
    torch.testing.assert_close(pairwise(logits, targets), expected)
    assert pairwise(logits, targets[:0]).shape == (5, 0)


class TestValidPixels:
    """Leaving pixels out is the same as not having them."""

    @pytest.fixture
    def valid(self):
        return torch.rand(40, generator=torch.Generator().manual_seed(2)) < 0.6

    @pytest.mark.parametrize("loss", [sigmoid_focal_loss, dice_loss])
    def test_of_every_mask(self, masks, loss, valid):
        logits, targets = masks
        of_masks = torch.stack([valid.roll(i) for i in range(len(logits))])
        rows = zip(logits, targets, of_masks, strict=True)
        expected = torch.cat([loss(x[v][None], t[v][None]) for x, t, v in rows])
        torch.testing.assert_close(loss(logits, targets, valid=of_masks), expected)
        assert not torch.allclose(loss(logits, targets), expected)

    @pytest.mark.parametrize("loss", [pairwise_sigmoid_focal_loss, pairwise_dice_loss])
    def test_of_every_pair(self, masks, loss, valid):
        logits, targets = masks
        expected = loss(logits[:, valid], targets[:3, valid])
        torch.testing.assert_close(loss(logits, targets[:3], valid=valid), expected)

    def test_no_pixel_at_all_is_no_loss(self, masks):
        logits, targets = masks
        none = torch.zeros(40, dtype=torch.bool)
        for loss in (sigmoid_focal_loss, dice_loss):
            assert loss(logits, targets, valid=none).abs().max() == 0
        for loss in (pairwise_sigmoid_focal_loss, pairwise_dice_loss):
            assert loss(logits, targets, valid=none).abs().max() == 0


def test_losses_stay_finite_for_extreme_logits():
    logits = torch.tensor([[-1e4, 1e4]])
    wrong = torch.tensor([[True, False]])
    assert sigmoid_focal_loss(logits, wrong).item() == pytest.approx(1e4 * (0.25 + 0.75) / 2)
    assert sigmoid_focal_loss(logits, ~wrong).item() == 0


class TestMatchedMaskLosses:
    @pytest.fixture
    def inputs(self):
        generator = torch.Generator().manual_seed(1)
        logits = 2 * torch.randn(7, 6, 9, generator=generator, dtype=torch.float64)
        targets = torch.rand(3, 23, 36, generator=generator) < 0.4
        return logits.requires_grad_(), targets, torch.tensor([0, 1, 2, 0, 1, 2, 2])

    @pytest.fixture
    def valid(self):
        """Of two images, and the image of each mask."""
        valid = torch.rand(2, 23, 36, generator=torch.Generator().manual_seed(3)) < 0.6
        return {"valid": valid, "image": torch.tensor([0, 0, 1, 0, 0, 1, 1])}

    def reference(self, logits, targets, segment, valid=None, image=None):
        x = F.interpolate(logits[:, None], size=targets.shape[-2:], mode="bilinear").flatten(1)
        t = targets[segment].flatten(1)
        v = None if valid is None else valid[image].flatten(1)
        return sigmoid_focal_loss(x, t, valid=v), dice_loss(x, t, valid=v)

    @pytest.mark.parametrize("all_valid", [True, False])
    @pytest.mark.parametrize("chunk", [1, 2000, 1 << 20])
    def test_equals_the_losses_of_the_upsampled_masks(
        self, inputs, valid, chunk, all_valid, monkeypatch
    ):
        monkeypatch.setitem(losses._CHUNK_PIXELS, "cpu", chunk)
        logits = inputs[0]
        weights = torch.linspace(-1, 2, 14, dtype=torch.float64).view(2, 7)
        results = []
        for function in (matched_mask_losses, self.reference):
            values = torch.stack(function(*inputs, **({} if all_valid else valid)))
            (gradient,) = torch.autograd.grad((values * weights).sum(), logits)
            results.append((values, gradient))
        torch.testing.assert_close(*results)

    @pytest.mark.parametrize("all_valid", [True, False])
    def test_gradient_is_numerically_right(self, inputs, valid, all_valid):
        logits, targets, segment = inputs
        options = {"alpha": 0.3, "gamma": 1.5} | ({} if all_valid else valid)

        def function(x):
            return matched_mask_losses(x, targets, segment, **options)

        assert torch.autograd.gradcheck(function, (logits,))

    def test_an_image_without_valid_pixels_has_no_gradient(self, inputs, valid):
        logits, targets, segment = inputs
        valid["valid"][1] = False
        values = torch.stack(matched_mask_losses(logits, targets, segment, **valid))
        values.sum().backward()
        of_image = valid["image"] == 1
        assert values[:, of_image].abs().max() == logits.grad[of_image].abs().max() == 0
        assert logits.grad[~of_image].abs().amax((1, 2)).min() > 0

    def test_no_mask_has_a_gradient_of_zeros(self):
        logits = torch.zeros(0, 4, 4, requires_grad=True)
        empty = torch.zeros(0, 16, 16, dtype=torch.bool)
        focal, dice = matched_mask_losses(logits, empty, torch.zeros(0, dtype=torch.int64))
        (focal.sum() + dice.sum()).backward()
        assert logits.grad.shape == (0, 4, 4)

    def test_in_inference_mode(self, inputs):
        with torch.inference_mode():
            values = matched_mask_losses(*inputs)
        torch.testing.assert_close(values, self.reference(*inputs))
