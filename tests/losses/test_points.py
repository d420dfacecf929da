"""Losses at points against losses at all pixels, and where the points are drawn."""

from dataclasses import replace

import pytest
import torch

from mask_former.criterion import SetCriterion
from mask_former.losses.dense import matched_mask_losses
from mask_former.losses.points import PointSampling, pixels_at, point_mask_losses
from mask_former.matcher import HungarianMatcher
from mask_former.structures import Prediction, Target

HEIGHT, WIDTH = 12, 20


def centres(count):
    """Of all pixels, (count, P, 2)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    points = torch.stack([(x + 0.5) / WIDTH, (y + 0.5) / HEIGHT], -1).double()
    return points.view(1, -1, 2).expand(count, -1, -1)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    targets = torch.rand(2, HEIGHT, WIDTH, generator=generator) < 0.4
    valid = torch.rand(2, HEIGHT, WIDTH, generator=generator) < 0.6
    regions = {"valid": valid, "image": torch.tensor([0, 1, 1, 0])}
    return (logits.requires_grad_(), targets, torch.tensor([0, 1, 1, 0])), regions


@pytest.mark.parametrize("all_valid", [True, False])
def test_at_the_centres_of_all_pixels_they_equal_the_losses_of_all_pixels(inputs, all_valid):
    arguments, regions = inputs
    if all_valid:
        regions = {}
    logits = arguments[0]
    results = []
    for losses in (
        point_mask_losses(*arguments, centres(4), **regions),
        matched_mask_losses(*arguments, **regions),
    ):
        total = losses[0].sum() + (torch.arange(4) * losses[1]).sum()
        results.append((losses, torch.autograd.grad(total, logits)))
    torch.testing.assert_close(*results)


def test_gradient_is_numerically_right(inputs):
    (logits, targets, segment), regions = inputs
    points = torch.rand(4, 30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(x):
        return point_mask_losses(x, targets, segment, points, **regions)

    assert torch.autograd.gradcheck(function, (logits,))


def test_a_point_lies_in_its_pixel():
    points = torch.tensor([[0.0, 0.0], [0.999, 0.999], [1.0, 1.0], [0.26, 0.5]])
    row, column = pixels_at(points, torch.zeros(1, 2, 4))
    assert row.tolist() == [0, 1, 1, 1]
    assert column.tolist() == [0, 3, 3, 1]


def test_uncertain_points_are_near_the_border_of_the_mask():
    torch.manual_seed(0)
    # Logits rise from left to right, 0 in the middle.
    masks = torch.linspace(-9, 9, 64).expand(2, 16, 64)
    sampling = PointSampling(200, oversample_ratio=4.0, importance_sample_ratio=0.75)
    points = sampling.uncertain(masks)
    assert points.shape == (2, 200, 2)
    assert ((points >= 0) & (points <= 1)).all()
    distance = (points[..., 0] - 0.5).abs()
    # 150 of 800 candidates: those within 0.094 of the middle; the other 50 are anywhere.
    assert distance[:, :150].max() < 0.14
    assert distance[:, 150:].mean() == pytest.approx(0.25, abs=0.05)
    assert not points[0].equal(points[1])


def test_all_points_may_be_uniform_or_uncertain():
    masks = torch.zeros(3, 4, 4)
    for ratio in (0.0, 1.0):
        sampling = PointSampling(10, oversample_ratio=1.0, importance_sample_ratio=ratio)
        assert sampling.uncertain(masks).shape == (3, 10, 2)
    assert sampling.uncertain(masks[:0]).shape == (0, 10, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((-1,), "TRAIN_NUM_POINTS is -1"),
        ((5, 0.5), "OVERSAMPLE_RATIO 0.5"),
        ((5, 3.0, 1.5), "IMPORTANCE_SAMPLE_RATIO is 1.5"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PointSampling(*options)


@pytest.mark.parametrize("with_valid", [False, True])
def test_criterion_and_matcher_come_near_those_of_all_pixels(with_valid):
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(3, 2, 4, 4, generator=generator)
    fields = torch.nn.functional.interpolate(fields, size=(64, 64), mode="bilinear")
    masks = fields.argmax(0)[None] == torch.arange(2)[:, None, None, None]  # (2, 2, 64, 64)
    targets = [Target(torch.tensor([1, 0]), m) for m in masks.transpose(0, 1)]
    if with_valid:
        valid = torch.ones(64, 64, dtype=torch.bool)
        valid[40:] = False
        targets = [replace(target, valid=valid) for target in targets]
    logits = 3 * fields.transpose(0, 1)[:, :, ::4, ::4].contiguous()
    predictions = [
        Prediction(torch.randn(2, 3, 5, generator=generator), logits.clone().requires_grad_())
        for _ in range(2)
    ]
    found = []
    torch.manual_seed(0)
    for points in (None, PointSampling(4000, oversample_ratio=1.0, importance_sample_ratio=0.0)):
        matcher = HungarianMatcher(points=points)
        criterion = SetCriterion(num_classes=4, matcher=matcher, points=points)
        cost = matcher.cost(predictions, 0, targets[0])
        losses = criterion(predictions, targets)
        sum(losses.values()).backward()
        gradient = torch.stack([p.mask_logits.grad for p in predictions])
        for p in predictions:
            p.mask_logits.grad = None
        found.append((cost, torch.stack(list(losses.values())), gradient))
    exact, sampled = found
    # Between the pixels of the predicted masks, which the exact cost looks at, they are smoother.
    torch.testing.assert_close(sampled[0], exact[0], rtol=0.15, atol=0.05)
    torch.testing.assert_close(sampled[1].detach(), exact[1].detach(), rtol=0.05, atol=0.01)
    similarity = torch.cosine_similarity(sampled[2].flatten(), exact[2].flatten(), dim=0)
    assert 0.9 < similarity < 0.99999
