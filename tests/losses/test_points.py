"""Losses at points against losses at all pixels, and where the points are drawn."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measure import peak_memory
from mask_former.criterion import SetCriterion
from mask_former.losses.dense import ALL_PIXELS
from mask_former.losses.mask import (
    DEFAULT_LOSSES,
    BinaryCrossEntropy,
    DiceLoss,
    FocalLoss,
    paired_loss,
    paired_losses,
    pairwise_losses,
)
from mask_former.losses.points import (
    PointSampling,
    framed,
    pixels_at,
    sample_channels,
    sample_logits,
    sample_regions,
)
from mask_former.matcher import HungarianMatcher
from mask_former.structures import Matching, Prediction, Target

HEIGHT, WIDTH = 12, 20
LOSSES = [partial(paired_losses, [loss for _, _, loss in DEFAULT_LOSSES])]
INDEX = torch.tensor([0, 1, 1, 0])
# Four masks of two images with one segment each.
MATCHING = Matching(torch.zeros(4), INDEX, torch.arange(4), INDEX)


@dataclass(frozen=True)
class GivenPoints(PointSampling):
    """No random points, but the same ones always: (P, 2) to match, (M, P, 2) to learn."""

    to_match: torch.Tensor = None
    to_learn: torch.Tensor = None

    def uniform(self, device):
        return self.to_match

    def uncertain(self, masks):
        return self.to_learn.expand(len(masks), -1, -1)


def centres():
    """Of all pixels, (P, 2)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    points = torch.stack([(x + 0.5) / WIDTH, (y + 0.5) / HEIGHT], -1).double()
    return points.view(-1, 2)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture(params=[False, True], ids=["all", "valid"])
def targets(request):
    generator = torch.Generator().manual_seed(1)
    return [
        Target(
            torch.zeros(1, dtype=torch.int64),
            torch.rand(1, HEIGHT, WIDTH, generator=generator) < 0.4,
            torch.rand(HEIGHT, WIDTH, generator=generator) < 0.6 if request.param else None,
        )
        for _ in range(2)
    ]


def random_points(*shape):
    """Some outside of all centres of pixels, so that there are zeros on one side of them."""
    points = torch.rand(*shape, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points.view(-1, 2)[:3] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.001, 0.5]])
    return points


def test_at_the_centres_of_inner_pixels_they_equal_the_losses_of_all_pixels(logits, targets):
    """Those further out lie between the predicted masks and the zeros around them."""
    points = centres().view(HEIGHT, WIDTH, 2)[2:-2, 2:-2].reshape(1, -1, 2)
    inner = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    only_inner = [replace(t, valid=inner if t.valid is None else inner & t.valid) for t in targets]
    results = []
    for values in (
        GivenPoints(points.shape[1], to_learn=points).paired(LOSSES, logits, targets, MATCHING),
        ALL_PIXELS.paired(LOSSES, logits, only_inner, MATCHING),
    ):
        total = (torch.arange(8).view(2, 4) * values).sum()
        results.append((values, torch.autograd.grad(total, logits)))
    torch.testing.assert_close(*results)


def test_gradient_is_numerically_right(logits, targets):
    where = GivenPoints(30, to_learn=random_points(4, 30))
    assert torch.autograd.gradcheck(lambda x: where.paired(LOSSES, x, targets, MATCHING), (logits,))


def test_masks_and_segments_are_sampled_bilinearly_with_zeros_around(targets):
    """The published way, in its own words: `grid_sample` of both as numbers."""
    points = random_points(40)
    masks = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = Target(torch.zeros(2), torch.cat([t.masks for t in targets]))

    def sample(maps):
        grid = (2 * points - 1).expand(len(maps), 1, -1, -1)
        return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]

    x, t = sample(masks), sample(target.masks.double())
    assert ((t > 0) & (t < 1)).any()
    losses = partial(pairwise_losses, [BinaryCrossEntropy(), DiceLoss(), FocalLoss()])
    predictions = [Prediction(torch.zeros(1, 3, 2), masks[None])]
    found = GivenPoints(40, to_match=points).pairwise(losses, predictions, 0, target)
    torch.testing.assert_close(found[:, 0], losses(x, t))

    pairs = [paired_loss(loss, x[:2], t) for loss in (BinaryCrossEntropy(), DiceLoss())]
    matching = Matching(*[torch.arange(2)] * 4)
    where = GivenPoints(40, to_learn=points)
    paired = [partial(paired_losses, [BinaryCrossEntropy(), DiceLoss()])]
    found = where.paired(
        paired, masks[:2], [target], replace(matching, image=torch.zeros(2).long())
    )
    torch.testing.assert_close(found, torch.stack(pairs))


def test_channels_equal_grid_sample():
    maps = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    points = random_points(50)
    expected = sample_logits(maps[None], points[None])[0]
    torch.testing.assert_close(sample_channels(maps, points), expected)


def test_masks_are_compared_as_if_they_were_multiplied_out_before(targets):
    generator = torch.Generator().manual_seed(5)
    embeddings = [torch.randn(2, 6, 4, generator=generator) for _ in range(3)]
    features = [torch.randn(2, 4, 3, 5, generator=generator) for _ in range(2)]
    factors = zip((features[0], *features), embeddings, strict=True)  # two layers share theirs
    factored = [Prediction(torch.zeros(2, 6, 2), f, e) for f, e in factors]
    plain = [Prediction(p.class_logits, p.mask_logits) for p in factored]
    losses = partial(pairwise_losses, [BinaryCrossEntropy(), DiceLoss()])
    where = GivenPoints(40, to_match=random_points(40))
    expected = where.pairwise(losses, plain, 1, targets[1])
    torch.testing.assert_close(where.pairwise(losses, factored, 1, targets[1]), expected)
    assert expected.shape == (2, 3, 6, 1)


def test_layers_with_features_of_their_own_are_sampled_one_after_another(targets):
    channels, layers, where = 64, 6, PointSampling(4000)
    losses = partial(pairwise_losses, [BinaryCrossEntropy(), DiceLoss()])
    peaks = []
    for own in (1, layers):
        features = [torch.randn(1, channels, 3, 5) for _ in range(own)] * (layers // own)
        predictions = [
            Prediction(torch.zeros(1, 2, 2), f, torch.ones(1, 2, channels)) for f in features
        ]
        peaks.append(peak_memory(lambda p=predictions: where.pairwise(losses, p, 0, targets[0])))
    assert peaks[1] - peaks[0] < 2 * 4 * channels * where.num_points


@pytest.mark.parametrize("index", [[0, 1], [1, 1, 0]])
def test_regions_equal_grid_sample(targets, index):
    regions = torch.cat([t.masks for t in targets])
    points = random_points(len(index), 50)
    expected = sample_logits(regions[index][:, None].double(), points)[:, 0]
    found = sample_regions(framed(regions), points, torch.tensor(index))
    torch.testing.assert_close(found, expected)


def test_a_point_lies_in_its_pixel():
    points = torch.tensor([[0.0, 0.0], [0.999, 0.999], [1.0, 1.0], [0.26, 0.5]])
    pixels = torch.zeros(2, 2, 4, dtype=torch.bool)
    for row, column in ((0, 0), (1, 3), (1, 1)):
        pixels[1, row, column] = True
    assert pixels_at(pixels, points.expand(2, -1, -1), torch.tensor([1, 0])).tolist() == [
        [True] * 4,
        [False] * 4,
    ]


def test_uncertain_points_are_near_the_border_of_the_mask():
    torch.manual_seed(0)
    # Logits rise from left to right, 0 in the middle.
    masks = torch.linspace(-9, 9, 64).expand(2, 16, 64)
    sampling = PointSampling(200, oversample_ratio=4.0, importance_sample_ratio=0.75)
    points = sampling.uncertain(masks)
    assert points.shape == (2, 200, 2)
    assert ((points >= 0) & (points <= 1)).all()
    distance = (points[..., 0] - 0.5).abs()
    # 150 of 800 candidates: those within 0.094 of the middle; the other 50 are anywhere. Along the
    # rim masks are less certain, because there are zeros outside.
    inner = (points[..., 1] - 0.5).abs() < 7.5 / 16
    assert distance[:, :150][inner[:, :150]].max() < 0.14
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
    sampling = PointSampling(4000, oversample_ratio=1.0, importance_sample_ratio=0.0)
    for where in (ALL_PIXELS, sampling):
        matcher = HungarianMatcher(where=where)
        criterion = SetCriterion(num_classes=4, matcher=matcher, where=where)
        cost = matcher.cost(predictions, 0, targets[0]).detach()
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
