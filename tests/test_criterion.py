"""The training loss against a plain transcription of the paper's formulas."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mask_former.criterion import SetCriterion
from mask_former.engine.config import get_cfg
from mask_former.errors import UserError
from mask_former.losses.mask import (
    BinaryCrossEntropy,
    DiceLoss,
    FocalLoss,
    WeightedLoss,
    paired_loss,
)
from mask_former.matcher import HungarianMatcher
from mask_former.structures import Prediction, Target

K, Q = 4, 6


def make_batch(segments=(3, 0, 2), layers=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = len(segments)
    predictions = [
        Prediction(
            torch.randn(images, Q, K + 1, generator=generator).requires_grad_(),
            torch.randn(images, Q, 8, 10, generator=generator).requires_grad_(),
        )
        for _ in range(layers)
    ]
    targets = [
        Target(
            torch.randint(K, (n,), generator=generator),
            torch.rand(n, 32, 40, generator=generator) < 0.4,
        )
        for n in segments
    ]
    return predictions, targets


@pytest.fixture
def criterion():
    losses = [
        WeightedLoss("loss_mask", 5.0, FocalLoss()),
        WeightedLoss("loss_dice", 2.0, DiceLoss()),
    ]
    shared = {"mask_losses": losses, "class_weight": 1.5}
    return SetCriterion(
        num_classes=K, matcher=HungarianMatcher(**shared), no_object_weight=0.2, **shared
    )


def transcription(prediction, targets, matcher):
    """One layer, image by image and mask by mask."""
    matching = matcher([prediction], targets)
    labels = torch.full((len(targets), Q), K)
    masks, all_labels = (
        torch.cat([getattr(t, name) for t in targets]) for name in ("masks", "labels")
    )
    focal, dice = [], []
    for _, image, query, segment in zip(
        *(x.tolist() for x in vars(matching).values()), strict=True
    ):
        labels[image, query] = all_labels[segment]
        logits = F.interpolate(
            prediction.mask_logits[image, query][None, None], size=(32, 40), mode="bilinear"
        ).flatten(1)
        focal.append(paired_loss(FocalLoss(), logits, masks[segment].flatten()[None]).sum())
        dice.append(paired_loss(DiceLoss(), logits, masks[segment].flatten()[None]).sum())
    weight = torch.tensor([1.0] * K + [0.2])
    ce = F.cross_entropy(prediction.class_logits.transpose(1, 2), labels, weight)
    n = max(len(all_labels), 1)
    return {"loss_ce": 1.5 * ce, "loss_mask": 5 * sum(focal) / n, "loss_dice": 2 * sum(dice) / n}


def test_every_layer_equals_the_transcription(criterion):
    predictions, targets = make_batch()
    losses = criterion(predictions, targets)
    for i, suffix in enumerate(["_0", "_1", ""]):
        expected = transcription(predictions[i], targets, criterion.matcher)
        for name, value in expected.items():
            torch.testing.assert_close(losses.pop(name + suffix), value)
    assert not losses


def test_any_mask_loss_under_its_own_name():
    predictions, targets = make_batch(layers=2)
    losses = [WeightedLoss("loss_bce", 5.0, BinaryCrossEntropy())]
    matcher = HungarianMatcher(mask_losses=losses)
    found = SetCriterion(num_classes=K, matcher=matcher, mask_losses=losses)(predictions, targets)
    assert list(found) == ["loss_ce_0", "loss_ce", "loss_bce_0", "loss_bce"]
    matching = matcher([predictions[1]], targets)
    logits = predictions[1].mask_logits[matching.image, matching.query]
    masks = torch.cat([target.masks for target in targets])[matching.segment]
    upsampled = F.interpolate(logits[:, None], size=(32, 40), mode="bilinear")[:, 0]
    # The mean over the pixels of five masks, whose number is five.
    expected = 5 * F.binary_cross_entropy_with_logits(upsampled, masks.float())
    torch.testing.assert_close(found["loss_bce"], expected)


def test_gradients_equal_those_of_the_transcription(criterion):
    predictions, targets = make_batch()
    leaves = [t for p in predictions for t in (p.class_logits, p.mask_logits)]
    actual = torch.autograd.grad(sum(criterion(predictions, targets).values()), leaves)
    plain = [sum(transcription(p, targets, criterion.matcher).values()) for p in predictions]
    for a, e in zip(actual, torch.autograd.grad(sum(plain), leaves), strict=True):
        torch.testing.assert_close(a, e)


def test_pixels_that_are_not_valid_do_not_matter(criterion):
    """The valid part of each image alone, in a batch of its own, has the same losses."""
    predictions, targets = make_batch(layers=2)
    size = (16, 28)  # of 32 x 40; the masks are predicted at a quarter
    for p in predictions:  # so that upsampling does not see what is outside
        p.mask_logits.data[..., 4:, :] = p.mask_logits.data[..., 3:4, :]
        p.mask_logits.data[..., 7:] = p.mask_logits.data[..., 6:7]
    valid = torch.zeros(32, 40, dtype=torch.bool)
    valid[: size[0], : size[1]] = True
    actual = criterion(predictions, [replace(t, valid=valid) for t in targets])
    cropped = [Prediction(p.class_logits, p.mask_logits[..., :4, :7]) for p in predictions]
    masks = [replace(t, masks=t.masks[:, : size[0], : size[1]]) for t in targets]
    torch.testing.assert_close(actual, criterion(cropped, masks))
    assert not torch.isclose(actual["loss_mask"], criterion(predictions, targets)["loss_mask"])


def test_a_batch_without_segments_still_teaches_no_object(criterion):
    predictions, targets = make_batch(segments=(0, 0), layers=1)
    losses = criterion(predictions, targets)
    expected = F.cross_entropy(predictions[0].class_logits.flatten(0, 1), torch.full((2 * Q,), K))
    torch.testing.assert_close(losses["loss_ce"], 1.5 * expected)
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    sum(losses.values()).backward()
    # A gradient of zeros, not none: distributed training waits for every parameter's.
    assert predictions[0].mask_logits.grad.abs().max() == 0


def test_losses_are_float32_under_mixed_precision(criterion):
    predictions, targets = make_batch()
    half = [Prediction(p.class_logits.bfloat16(), p.mask_logits.bfloat16()) for p in predictions]
    rounded = [Prediction(p.class_logits.float(), p.mask_logits.float()) for p in half]
    expected = criterion(rounded, targets)
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(half, targets)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])


def test_divisors_are_averaged_over_processes(criterion, monkeypatch):
    # 5 segments and 13 queries without one here; the other process has 2 and 16.
    _, targets = make_batch()
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    others = torch.tensor([2.0, 2 + 0.2 * 16])
    monkeypatch.setattr("torch.distributed.all_reduce", lambda sums: sums.add_(others))
    segments, weight = criterion.divisors(targets, Q)
    assert segments.item() == 3.5
    assert weight.item() == pytest.approx((5 + 0.2 * 13 + 2 + 0.2 * 16) / 2)


WEIGHTS = [3.0, 0.0, 1.0, 0.5]


@pytest.fixture
def weighted():
    return SetCriterion(
        num_classes=K, matcher=HungarianMatcher(), no_object_weight=0.2, class_weights=WEIGHTS
    )


def test_class_weights_are_those_of_pytorchs_cross_entropy(weighted):
    """Also the divisor; and a mask of a class without weight learns like others."""
    predictions, targets = make_batch(layers=2)
    losses = weighted(predictions, targets)
    for prediction, suffix in zip(predictions, ["_0", ""], strict=True):
        matching = weighted.matcher([prediction], targets)
        labels = torch.full((3, Q), K)
        segments = torch.cat([target.labels for target in targets])
        labels[matching.image, matching.query] = segments[matching.segment]
        expected = F.cross_entropy(
            prediction.class_logits.transpose(1, 2), labels, torch.tensor([*WEIGHTS, 0.2])
        )
        torch.testing.assert_close(losses[f"loss_ce{suffix}"], expected)
    plain = SetCriterion(num_classes=K, matcher=weighted.matcher)(predictions, targets)
    torch.testing.assert_close(losses["loss_mask"], plain["loss_mask"])


@pytest.mark.parametrize("segments", [(3, 0, 2), (9, 1, 2)])  # six queries
def test_more_segments_than_queries_have_the_divisor_of_those_that_are_matched(segments):
    predictions, targets = make_batch(segments, layers=1)
    criterion = SetCriterion(num_classes=K, matcher=HungarianMatcher(), no_object_weight=0.2)
    matched = sum(min(n, Q) for n in segments)
    _, weight = criterion.divisors(targets, Q)
    assert weight.item() == pytest.approx(matched + 0.2 * (3 * Q - matched))


@pytest.mark.parametrize("class_weight", [1.0, 100.0])
def test_a_batch_whose_classes_weigh_nothing_has_no_class_loss(class_weight):
    """Nor gradients of one."""
    predictions, targets = make_batch(layers=1)
    criterion = SetCriterion(
        num_classes=K,
        matcher=HungarianMatcher(),
        no_object_weight=0.0,
        class_weights=[0.0] * K,
        class_weight=class_weight,
    )
    loss = criterion(predictions, targets)["loss_ce"]
    loss.backward()
    assert loss.item() == 0 and (predictions[0].class_logits.grad == 0).all()


def part_of(predictions, targets, images):
    parts = [Prediction(p.class_logits[images], p.mask_logits[images]) for p in predictions]
    return parts, [targets[i] for i in images]


@pytest.mark.parametrize("segments", [(3, 0, 2, 1), (0, 0, 0, 2), (7, 0, 8, 1)])
def test_the_losses_of_parts_add_up_to_those_of_the_batch(criterion, segments):
    """Also where a part has no segment at all, or an image more than there are queries."""
    predictions, targets = make_batch(segments)
    expected = criterion(predictions, targets)
    criterion.normalize_by_labels([target.labels for target in targets])
    found = [criterion(*part_of(predictions, targets, part)) for part in ([0, 2], [1], [3])]
    for name, value in expected.items():
        torch.testing.assert_close(sum(losses[name] for losses in found), value)
    criterion.normalize_by_labels(None)
    torch.testing.assert_close(criterion(predictions, targets), expected)


def test_class_weights_are_as_many_as_classes():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    assert SetCriterion(cfg).empty_weight.tolist() == pytest.approx([1, 1, 1, 0.1])
    cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = [1, 2, 0.5]
    assert SetCriterion(cfg).empty_weight.tolist() == pytest.approx([1, 2, 0.5, 0.1])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    with pytest.raises(UserError, match="CLASS_WEIGHTS has 3 weights.*NUM_CLASSES is 4"):
        SetCriterion(cfg)


def test_has_no_state_of_its_own(criterion):
    assert not criterion.state_dict()
