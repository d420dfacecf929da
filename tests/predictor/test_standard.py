"""The standard predictor: layers, projection, supervision, errors."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from mask_former.predictor import StandardPredictor
from mask_former.structures import PixelFeatures

OPTIONS = {
    "num_classes": 3,
    "num_queries": 5,
    "hidden_dim": 16,
    "mask_dim": 12,
    "num_heads": 4,
    "dim_feedforward": 32,
    "num_decoder_layers": 3,
}
SHAPES = {"res4": ShapeSpec(channels=16, stride=16), "res5": ShapeSpec(channels=24, stride=32)}


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    maps = {"res4": torch.randn(2, 16, 4, 6), "res5": torch.randn(2, 24, 2, 3)}
    return PixelFeatures(torch.randn(2, 12, 16, 24), maps)


def make(**options):
    torch.manual_seed(1)
    return StandardPredictor(**{**OPTIONS, "input_shape": SHAPES, "in_feature": "res5", **options})


def test_every_layer_predicts_in_training_and_the_last_in_inference(pixels):
    predictor = make(dropout=0.0)
    training, (inference,) = predictor(pixels), predictor.eval()(pixels)
    assert len(training) == 3
    for prediction in training:
        assert prediction.class_logits.shape == (2, 5, 4)
        assert prediction.mask_logits.shape == (2, 5, 16, 24)
    torch.testing.assert_close(training[-1].class_logits, inference.class_logits)
    torch.testing.assert_close(training[-1].mask_logits, inference.mask_logits)
    assert not torch.allclose(training[0].class_logits, training[1].class_logits)


def test_without_deep_supervision_the_last_layer_alone(pixels):
    full, last = make(dropout=0.0)(pixels), make(dropout=0.0, deep_supervision=False)(pixels)
    assert len(last) == 1
    torch.testing.assert_close(last[0], full[-1])


def test_masks_are_the_product_of_both_embeddings(pixels):
    predictor = make().eval()
    segments = []
    predictor.class_embed.register_forward_hook(lambda _, inputs, __: segments.append(inputs[0]))
    (prediction,) = predictor(pixels)
    embedding = predictor.mask_embed(segments[0][0])  # (B, Q, C)
    expected = (embedding[1, 2][:, None, None] * pixels.mask_features[1]).sum(0)
    torch.testing.assert_close(prediction.mask_logits[1, 2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("in_feature", "enforce", "projected"),
    [("res5", False, True), ("res4", False, False), ("res4", True, True)],
)
def test_the_map_is_projected_where_it_must_be(pixels, in_feature, enforce, projected):
    predictor = make(in_feature=in_feature, enforce_input_proj=enforce)
    assert ("input_proj.weight" in predictor.state_dict()) == projected
    predictor(pixels)


@pytest.mark.parametrize("key", ["num_queries", "num_decoder_layers"])
def test_nothing_to_decode(key):
    with pytest.raises(ValueError, match="DEC_LAYERS .*at least 1"):
        make(**{key: 0})


def test_an_unknown_map_is_named():
    with pytest.raises(ValueError, match="'transformer_encoder'.*'res4', 'res5'"):
        make(in_feature="transformer_encoder")
