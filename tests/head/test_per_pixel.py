"""The per-pixel baselines: logits, losses and errors, on a pixel decoder that only hands on."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from mask_former.engine import get_cfg
from mask_former.head import per_pixel
from mask_former.head.per_pixel import (
    PerPixelBaselineHead,
    PerPixelBaselinePlusHead,
    PixelClassifier,
    QueryClassifier,
)
from mask_former.layers import TransformerOptions
from mask_former.structures import PixelFeatures

K, C, IGNORE = 3, 8, 9


class HandOn(nn.Module):
    """Takes {"embeddings", "res5"} for granted."""

    def forward(self, features):
        return PixelFeatures(features["embeddings"], (features["res5"],))


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return {
        "embeddings": torch.randn(2, C, 4, 6, generator=generator),
        "res5": torch.randn(2, 12, 1, 2, generator=generator),
    }


@pytest.fixture
def targets():
    targets = torch.randint(K, (2, 15, 22), generator=torch.Generator().manual_seed(1))
    targets[:, :3, 4:] = IGNORE
    return targets


def make(predictor, **options):
    torch.manual_seed(2)
    return PerPixelBaselineHead(
        pixel_decoder=HandOn(), predictor=predictor(), ignore_value=IGNORE, **options
    )


def linear():
    return PixelClassifier(C, K)


def queries(**options):
    return QueryClassifier(
        memory_shape=[ShapeSpec(channels=12, stride=32)],
        num_queries=K,
        hidden_dim=16,
        mask_dim=C,
        transformer=TransformerOptions(num_heads=2, dim_feedforward=16, dropout=0.0),
        num_decoder_layers=3,
        **options,
    )


@pytest.mark.parametrize("predictor", [linear, queries])
def test_logits_are_upsampled_by_the_stride(features, predictor):
    head = make(predictor).eval()
    logits, losses = head(features)
    assert logits.shape == (2, K, 16, 24) and losses == {}
    small = head.predictor(head.pixel_decoder(features))[-1]
    torch.testing.assert_close(logits, F.interpolate(small, size=(16, 24), mode="bilinear"))


def test_the_linear_classifier_sees_one_pixel(features):
    classifier = linear()
    (logits,) = classifier(HandOn()(features))
    expected = classifier.weight[:, :, 0, 0] @ features["embeddings"][1, :, 2, 5] + classifier.bias
    torch.testing.assert_close(logits[1, :, 2, 5], expected)


@pytest.mark.parametrize("predictor", [linear, queries])
def test_every_layer_learns_from_the_pixels_that_are_not_ignored(features, targets, predictor):
    head = make(predictor, loss_weight=0.5)
    logits, losses = head(features, targets)
    assert logits is None
    layers = head.predictor(head.pixel_decoder(features))
    suffixes = {linear: [""], queries: ["_0", "_1", ""]}[predictor]
    assert list(losses) == [f"loss_sem_seg{suffix}" for suffix in suffixes]
    for layer, loss in zip(layers, losses.values(), strict=True):
        upsampled = F.interpolate(layer, size=(16, 24), mode="bilinear")[..., :15, :22]
        valid = targets != IGNORE
        log_p = upsampled.log_softmax(1).permute(0, 2, 3, 1)[valid]
        expected = -log_p.gather(1, targets[valid][:, None]).mean()
        torch.testing.assert_close(loss, 0.5 * expected)


def test_a_batch_without_any_class_has_a_loss_of_zero(features, targets):
    head = make(queries)
    _, losses = head(features, torch.full_like(targets, IGNORE))
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(("label", "weights"), [(IGNORE, None), (1, [0.5, 0.0, 3.0])])
def test_a_batch_of_no_weight_has_a_loss_and_gradients_of_zero(features, targets, label, weights):
    """Also where the loss has a large weight."""
    head = make(linear, loss_weight=100.0, class_weights=weights)
    _, losses = head(features, torch.full_like(targets, label))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert all((p.grad == 0).all() for p in head.parameters())


def test_the_number_of_pixels_is_averaged_over_processes(features, targets, monkeypatch):
    head = make(linear)
    alone = head(features, targets)[1]["loss_sem_seg"]
    pixels = (targets != IGNORE).sum()
    monkeypatch.setattr(per_pixel, "average_over_processes", lambda n: (n + 2 * pixels) / 2)
    together = head(features, targets)[1]["loss_sem_seg"]
    torch.testing.assert_close(together, alone / 1.5)


def test_class_weights_are_those_of_pytorchs_cross_entropy(features, targets):
    """Also the divisor. The ignored label is above all classes."""
    weights = [0.5, 0.0, 3.0]
    _, losses = make(linear, class_weights=weights)(features, targets)
    upsampled = make(linear).eval()(features)[0][..., :15, :22]
    expected = F.cross_entropy(upsampled, targets, torch.tensor(weights), ignore_index=IGNORE)
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    assert not make(linear, class_weights=weights).state_dict().keys() - make(linear).state_dict()


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_the_losses_of_parts_add_up_to_those_of_the_batch(features, targets, weights):
    head = make(queries, class_weights=weights)
    expected = head(features, targets)[1]
    head.normalize_by([{"sem_seg": labels} for labels in targets])
    parts = [{name: x[i : i + 1] for name, x in features.items()} for i in range(2)]
    found = [head(part, targets[i : i + 1])[1] for i, part in enumerate(parts)]
    assert (targets[0] == IGNORE).sum() != (targets[1] == 0).sum()
    for name, value in expected.items():
        torch.testing.assert_close(found[0][name] + found[1][name], value)
    head.normalize_by(None)
    torch.testing.assert_close(head(features, targets)[1], expected)


def test_parts_without_a_label_map_are_refused():
    with pytest.raises(ValueError, match="sem_seg.*DATASET_MAPPER_NAME to mask_former_semantic"):
        make(linear).normalize_by([{"image": None}])


def test_losses_are_float32_under_mixed_precision(features, targets):
    head = make(linear)
    expected = head(features, targets)[1]["loss_sem_seg"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(features, targets)[1]["loss_sem_seg"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_without_a_label_map_there_is_nothing_to_learn_from(features):
    with pytest.raises(ValueError, match="sem_seg.*DATASET_MAPPER_NAME to mask_former_semantic"):
        make(linear)(features)


def test_there_is_one_query_a_class():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="NUM_OBJECT_QUERIES is 100 and .*NUM_CLASSES is 7;"):
        PerPixelBaselinePlusHead.build_predictor(cfg, [])


@pytest.mark.parametrize("decoder", ["BasePixelDecoder", "PEM_Pixel_Decoder"])
@pytest.mark.parametrize(("finest", "common_stride"), [(2, 8), (3, 4)])
def test_logits_that_would_not_lie_on_the_image_are_refused(decoder, finest, common_stride):
    cfg = get_cfg()
    head = cfg.MODEL.SEM_SEG_HEAD
    head.PIXEL_DECODER_NAME, head.NORM, head.COMMON_STRIDE = decoder, "", common_stride
    head.IN_FEATURES = [f"res{i}" for i in range(finest, 6)]
    shapes = {f"res{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 6)}
    with pytest.raises(ValueError, match=f"COMMON_STRIDE is {common_stride}, .* {2**finest}:"):
        PerPixelBaselineHead(cfg, shapes)
    head.COMMON_STRIDE = 2**finest
    assert PerPixelBaselineHead(cfg, shapes).common_stride == 2**finest
