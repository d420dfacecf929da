"""Bipartite and fixed matching: right, batched equals single, empty images, broken predictions."""

import itertools
from dataclasses import replace

import pytest
import torch

from mask_former.losses.mask import (
    BinaryCrossEntropy,
    DiceLoss,
    FocalLoss,
    WeightedLoss,
    paired_loss,
)
from mask_former.matcher import FixedMatcher, HungarianMatcher, NonFinitePredictions
from mask_former.structures import Prediction, Target

K, Q, SIZE = 4, 5, (8, 12)


def make_target(labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(len(labels), 4 * SIZE[0], 4 * SIZE[1], generator=generator) < 0.3
    return Target(torch.tensor(labels, dtype=torch.int64), masks)


def make_predictions(layers=2, images=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Prediction(
            torch.randn(images, Q, K + 1, generator=generator),
            torch.randn(images, Q, *SIZE, generator=generator),
        )
        for _ in range(layers)
    ]


TARGETS = [make_target([1, 0, 3], 1), make_target([]), make_target([2, 2], 2)]
MATCHERS = [HungarianMatcher(), FixedMatcher(num_classes=K, num_queries=K)]


def pairs(matching, layer, image, offset=0):
    rows = (matching.layer == layer) & (matching.image == image)
    segments = (matching.segment[rows] - offset).tolist()
    return list(zip(matching.query[rows].tolist(), segments, strict=True))


def test_finds_the_least_total_cost_of_all_assignments():
    predictions, target = make_predictions(1, 1), TARGETS[0]
    matching = HungarianMatcher()(predictions, [target])
    logits, masks = predictions[0].class_logits[0], predictions[0].mask_logits[0].flatten(1)
    segments = target.masks[:, ::4, ::4].flatten(1)  # nearest neighbour at a quarter of the size

    def cost_of(queries):
        masks_of = masks[list(queries)]
        probability = logits.softmax(-1)[list(queries), target.labels]
        mask_cost = 20 * paired_loss(FocalLoss(), masks_of, segments)
        mask_cost += paired_loss(DiceLoss(), masks_of, segments)
        return (mask_cost - probability).sum().item()

    best = min(itertools.permutations(range(Q), 3), key=cost_of)
    assert pairs(matching, 0, 0) == sorted((query, i) for i, query in enumerate(best))


def test_the_cost_is_the_weighted_sum_of_losses_less_that_of_the_probability():
    predictions, target = make_predictions(2, 1), TARGETS[0]
    losses = [WeightedLoss("a", 3.0, BinaryCrossEntropy()), WeightedLoss("b", 5.0, DiceLoss())]
    matcher = HungarianMatcher(mask_losses=losses, class_weight=2.0)
    found = matcher.cost(predictions, 0, target)
    assert found.shape == (2, Q, 3)
    logits, mask = predictions[1].class_logits[0], predictions[1].mask_logits[0, 4].flatten()[None]
    segment = target.masks[2, ::4, ::4].flatten()[None]
    bce, dice = (paired_loss(loss, mask, segment) for _, _, loss in losses)
    expected = 3 * bce + 5 * dice - 2 * logits[4].softmax(-1)[target.labels[2]]
    torch.testing.assert_close(found[1, 4, 2], expected[0])


def test_a_batch_of_layers_and_images_is_matched_as_each_alone():
    predictions = make_predictions()
    matcher = HungarianMatcher()
    together = matcher(predictions, TARGETS)
    for layer, image in itertools.product(range(2), range(3)):
        p = predictions[layer]
        alone = Prediction(p.class_logits[image : image + 1], p.mask_logits[image : image + 1])
        offset = sum(len(t.labels) for t in TARGETS[:image])
        expected = pairs(matcher([alone], [TARGETS[image]]), 0, 0)
        assert pairs(together, layer, image, offset) == expected
        assert len(expected) == len(TARGETS[image].labels)
    order = list(zip(*(x.tolist() for x in vars(together).values()), strict=True))
    assert order == sorted(order)


def test_a_perfect_prediction_is_found():
    target = make_target([0, 1, 2, 3])
    order = torch.tensor([2, 0, 3, 1])
    masks = torch.where(target.masks[order, ::4, ::4], 9.0, -9.0)
    classes = 9 * torch.nn.functional.one_hot(target.labels[order], K + 1).float()
    matching = HungarianMatcher()([Prediction(classes[None], masks[None])], [target])
    assert pairs(matching, 0, 0) == list(enumerate(order.tolist()))


def test_no_segment_in_the_whole_batch():
    matching = HungarianMatcher()(make_predictions(), [make_target([])] * 3)
    assert [len(x) for x in vars(matching).values()] == [0] * 4
    assert matching.segment.dtype == torch.int64


def test_more_segments_than_queries():
    matching = HungarianMatcher()(make_predictions(1, 1), [make_target([0] * (Q + 3))])
    assert matching.query.tolist() == list(range(Q))
    assert len(set(matching.segment.tolist())) == Q


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["class_logits", "mask_logits"])
def test_the_images_of_a_broken_prediction_are_named(part, value, matcher):
    predictions = make_predictions()
    # Image 1 has no segment, hence no cost that would show it.
    getattr(predictions[0], part)[1].view(-1)[3] = value
    with pytest.raises(NonFinitePredictions) as error:
        matcher(predictions, TARGETS)
    assert error.value.images == [1]


def test_finite_factors_of_infinite_masks_are_named():
    targets = [make_target([0]), make_target([1])]
    embeddings, features = torch.ones(2, Q, 4), torch.ones(2, 4, *SIZE)
    embeddings[1, 2] = features[1, :, 3] = 1e30
    prediction = Prediction(torch.zeros(2, Q, K + 1), features, embeddings)
    with pytest.raises(NonFinitePredictions) as error:
        HungarianMatcher()([prediction], targets)
    assert error.value.images == [1]


def test_pixels_that_are_not_valid_have_no_cost():
    predictions, target = make_predictions(2, 1), TARGETS[0]
    valid = torch.zeros(4 * SIZE[0], 4 * SIZE[1], dtype=torch.bool)
    valid[:20, :28] = True
    cropped = [Prediction(p.class_logits, p.mask_logits[..., :5, :7]) for p in predictions]
    matcher = HungarianMatcher()
    torch.testing.assert_close(
        matcher.cost(predictions, 0, replace(target, valid=valid)),
        matcher.cost(cropped, 0, replace(target, masks=target.masks[:, :20, :28])),
    )


class TestFixedMatcher:
    def test_query_and_class_are_one(self):
        targets = [make_target([3, 0, 1]), make_target([]), make_target([2, 1])]
        matching = FixedMatcher(num_classes=K, num_queries=K)(make_predictions(), targets)
        for layer in range(2):
            assert pairs(matching, layer, 0) == [(0, 1), (1, 2), (3, 0)]
            assert pairs(matching, layer, 1) == []
            assert pairs(matching, layer, 2, offset=3) == [(1, 1), (2, 0)]
        order = list(zip(*(x.tolist() for x in vars(matching).values()), strict=True))
        assert order == sorted(order)

    def test_no_segment_in_the_whole_batch(self):
        matcher = FixedMatcher(num_classes=K, num_queries=K)
        matching = matcher(make_predictions(), [make_target([])] * 3)
        assert [len(x) for x in vars(matching).values()] == [0] * 4

    def test_needs_one_query_a_class(self):
        with pytest.raises(ValueError, match="NUM_OBJECT_QUERIES is 100 and .*NUM_CLASSES is 4;"):
            FixedMatcher(num_classes=4, num_queries=100)

    def test_needs_one_segment_a_class(self):
        matcher = FixedMatcher(num_classes=K, num_queries=K)
        targets = [make_target([0]), make_target([2, 1, 2])]
        with pytest.raises(ValueError, match=r"image 1 .*classes \[2\].*mask_former_semantic"):
            matcher(make_predictions(images=2), targets)


def test_costs_are_float32_for_half_precision_predictions():
    predictions = [
        Prediction(p.class_logits.half(), p.mask_logits.half() * 1000) for p in make_predictions()
    ]
    costs = HungarianMatcher().cost(predictions, 0, TARGETS[0])
    assert costs.dtype == torch.float32
    assert costs.isfinite().all()
