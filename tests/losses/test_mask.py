"""Mask losses against hand-computed values, each other and torchvision."""

import math
from functools import partial

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from mask_former.losses import fused as fused_losses
from mask_former.losses import mask as losses
from mask_former.losses.mask import dice_loss, sigmoid_focal_loss


@pytest.fixture(params=[False, True], ids=["in place", "fused"])
def pairwise_mask_losses(request, monkeypatch):
    """In both forms; what is left to a compiler is here computed as it is written."""
    monkeypatch.setattr(fused_losses, "compiled", lambda function: function)
    return partial(losses.pairwise_mask_losses, compiled=request.param)


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


def test_pairwise_equals_paired_for_every_pair(pairwise_mask_losses, masks):
    logits, targets = masks
    options = {"alpha": 0.3, "gamma": 1.5}
    pairs = pairwise_mask_losses(logits, targets[:3], **options)
    for actual, paired in zip(
        pairs, (partial(sigmoid_focal_loss, **options), dice_loss), strict=True
    ):
        expected = torch.stack([paired(logits, t.expand_as(logits)) for t in targets[:3]], 1)
        torch.testing.assert_close(actual, expected)
    assert [x.shape for x in pairwise_mask_losses(logits, targets[:0])] == [(5, 0)] * 2


def test_pairwise_in_parts_equals_at_once(pairwise_mask_losses, masks, monkeypatch):
    logits, targets = masks
    expected = pairwise_mask_losses(logits, targets[:3])
    monkeypatch.setitem(losses._CHUNK_PIXELS, "cpu", 2 * logits.shape[1])  # 5 masks: 2 + 2 + 1
    torch.testing.assert_close(pairwise_mask_losses(logits, targets[:3]), expected)


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

    def test_of_every_pair(self, pairwise_mask_losses, masks, valid):
        logits, targets = masks
        expected = pairwise_mask_losses(logits[:, valid], targets[:3, valid])
        actual = pairwise_mask_losses(logits, targets[:3], valid=valid)
        torch.testing.assert_close(actual, expected)

    def test_no_pixel_at_all_is_no_loss(self, pairwise_mask_losses, masks):
        logits, targets = masks
        none = torch.zeros(40, dtype=torch.bool)
        for loss in (sigmoid_focal_loss, dice_loss):
            assert loss(logits, targets, valid=none).abs().max() == 0
        for cost in pairwise_mask_losses(logits, targets, valid=none):
            assert cost.abs().max() == 0


def test_losses_stay_finite_for_extreme_logits(pairwise_mask_losses):
    logits = torch.tensor([[-1e4, 1e4]])
    wrong = torch.tensor([[True, False]])
    focal, _ = pairwise_mask_losses(logits, torch.cat([wrong, ~wrong]))
    assert focal[0].tolist() == pytest.approx([1e4 * (0.25 + 0.75) / 2, 0])
    assert sigmoid_focal_loss(logits, wrong).item() == pytest.approx(1e4 * (0.25 + 0.75) / 2)
    assert sigmoid_focal_loss(logits, ~wrong).item() == 0
