"""Mask losses against hand-computed values, PyTorch's, torchvision's and each other."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from mask_former.losses.mask import (
    BinaryCrossEntropy,
    DiceLoss,
    FocalLoss,
    paired_loss,
    pairwise_losses,
)

LOSSES = [FocalLoss(), FocalLoss(alpha=0.3, gamma=1.5), BinaryCrossEntropy(), DiceLoss()]
all_losses = pytest.mark.parametrize("loss", LOSSES, ids=["focal", "focal 1.5", "bce", "dice"])


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 40, generator=generator, dtype=torch.float64)
    targets = torch.rand(5, 40, generator=generator) < 0.4
    return logits, targets


@pytest.fixture
def fractions():
    return torch.rand(5, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_one_undecided_pixel():
    # p = 1/2: focal loss alpha_t * (1/2)^2 * ln 2, cross entropy ln 2, dice loss 1 - 2/2.5 with
    # an overlap of 1/2 and 1 - 1/1.5 without.
    logits, targets = torch.zeros(2, 1), torch.tensor([[True], [False]])
    focal, bce, dice = (
        paired_loss(loss, logits, targets).tolist()
        for loss in (FocalLoss(), BinaryCrossEntropy(), DiceLoss())
    )
    assert focal == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])
    assert bce == pytest.approx([math.log(2)] * 2)
    assert dice == pytest.approx([1 - 2 / 2.5, 1 - 1 / 1.5])


def test_focal_loss_equals_torchvision(masks):
    logits, targets = masks
    expected = sigmoid_focal_loss(logits, targets.double(), alpha=0.3, gamma=1.5).mean(1)
    torch.testing.assert_close(paired_loss(FocalLoss(0.3, 1.5), logits, targets), expected)


def test_cross_entropy_equals_pytorch_also_for_fractions(masks, fractions):
    logits, targets = masks
    for t in (targets, fractions):
        expected = F.binary_cross_entropy_with_logits(logits, t.double(), reduction="none").mean(1)
        torch.testing.assert_close(paired_loss(BinaryCrossEntropy(), logits, t), expected)


def test_dice_loss_equals_its_definition_also_for_fractions(masks, fractions):
    logits, targets = masks
    p = logits.sigmoid()
    for t in (targets, fractions):
        expected = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        torch.testing.assert_close(paired_loss(DiceLoss(), logits, t), expected)


def test_an_empty_target_wants_an_empty_mask():
    targets = torch.zeros(1, 50, dtype=torch.bool)
    dice = DiceLoss()
    assert paired_loss(dice, torch.full((1, 50), -100.0), targets).item() == pytest.approx(0)
    assert paired_loss(dice, torch.full((1, 50), 100.0), targets).item() == pytest.approx(
        1 - 1 / 51
    )


@all_losses
def test_zeros_and_ones_are_fractions(masks, loss):
    logits, targets = masks
    expected = paired_loss(loss, logits, targets.double())
    torch.testing.assert_close(paired_loss(loss, logits, targets), expected)
    torch.testing.assert_close(paired_loss(loss, logits, targets.view(torch.uint8)), expected)


def test_a_fraction_costs_its_share_of_both_sides():
    logits = torch.tensor([[1.5]])
    inside, outside, between = (
        paired_loss(FocalLoss(), logits, torch.tensor([[t]])).item() for t in (1.0, 0.0, 0.3)
    )
    assert between == pytest.approx(0.3 * inside + 0.7 * outside)


def test_pairwise_equals_paired_for_every_pair(masks, fractions):
    logits, targets = masks
    for segments in (targets[:3], fractions[:3]):
        pairs = pairwise_losses(LOSSES, logits, segments)
        for actual, loss in zip(pairs, LOSSES, strict=True):
            columns = [paired_loss(loss, logits, t.expand_as(logits)) for t in segments]
            torch.testing.assert_close(actual, torch.stack(columns, 1))
    assert pairwise_losses(LOSSES, logits, targets[:0]).shape == (4, 5, 0)


@all_losses
def test_gradients_are_numerically_right(masks, fractions, loss):
    logits, targets = masks
    logits.requires_grad_()
    for t in (targets, fractions):
        assert torch.autograd.gradcheck(lambda x, t=t: paired_loss(loss, x, t), logits)


@all_losses
def test_what_is_compiled_is_the_same_formula(masks, fractions, loss):
    compiled = torch.compile(paired_loss, backend="eager", fullgraph=True)
    for targets in (masks[1], fractions):
        results = []
        for function in (paired_loss, compiled):
            leaf = masks[0].clone().requires_grad_()
            value = function(loss, leaf, targets)
            results.append((value, *torch.autograd.grad(value.sum(), leaf)))
        torch.testing.assert_close(*results)


@all_losses
class TestValidPixels:
    """Leaving pixels out is the same as not having them."""

    @pytest.fixture
    def valid(self):
        return torch.rand(40, generator=torch.Generator().manual_seed(2)) < 0.6

    def test_of_every_mask(self, masks, fractions, loss, valid):
        logits, targets = masks
        of_masks = torch.stack([valid.roll(i) for i in range(len(logits))])
        for segments in (targets, fractions):
            rows = zip(logits, segments, of_masks, strict=True)
            expected = torch.cat([paired_loss(loss, x[v][None], t[v][None]) for x, t, v in rows])
            actual = paired_loss(loss, logits, segments, of_masks)
            torch.testing.assert_close(actual, expected)
            assert not torch.allclose(paired_loss(loss, logits, segments), expected)

    def test_of_every_pair(self, masks, loss, valid):
        logits, targets = masks
        expected = pairwise_losses([loss], logits[:, valid], targets[:3, valid])
        actual = pairwise_losses([loss], logits, targets[:3], valid)
        torch.testing.assert_close(actual, expected)

    def test_no_pixel_at_all_is_no_loss(self, masks, loss):
        none = torch.zeros(40, dtype=torch.bool)
        assert paired_loss(loss, *masks, none).abs().max() == 0
        assert pairwise_losses([loss], *masks, none).abs().max() == 0


def test_losses_stay_finite_for_extreme_logits():
    logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    wrong = torch.tensor([[True, False]])
    of_wrong, of_right = 1e4 * (0.25 + 0.75) / 2, 0
    (costs,) = pairwise_losses([FocalLoss()], logits.detach(), torch.cat([wrong, ~wrong]))
    assert costs[0].tolist() == pytest.approx([of_wrong, of_right])
    loss = paired_loss(FocalLoss(), logits, wrong)
    assert loss.item() == pytest.approx(of_wrong)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].tolist() == pytest.approx([-0.25 / 2, 0.75 / 2])
    assert paired_loss(FocalLoss(), logits, ~wrong).item() == of_right


@all_losses
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=["whole", "fractions"])
def test_pixels_that_are_right_or_wrong_beyond_doubt_have_finite_slopes(loss, dtype):
    logits = torch.tensor([[-200.0, -30.0, 0.0, 30.0, 200.0]], requires_grad=True)
    for target in (0, 1):
        value = paired_loss(loss, logits, torch.full((1, 5), target, dtype=dtype))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("gamma", [-1.0, 0.5, math.nan])
def test_a_focal_loss_whose_slope_is_infinite(gamma):
    with pytest.raises(ValueError, match=f"gamma is {gamma}"):
        FocalLoss(gamma=gamma)
