"""The standard predictor: layers, projection, supervision, errors."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from mask_former.layers import TransformerOptions
from mask_former.predictor import StandardPredictor
from mask_former.structures import PixelFeatures

OPTIONS = {
    "num_classes": 3,
    "num_queries": 5,
    "hidden_dim": 16,
    "mask_dim": 12,
    "transformer": TransformerOptions(num_heads=4, dim_feedforward=32, dropout=0.0),
    "num_decoder_layers": 3,
}


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    memory = (torch.randn(2, 24, 2, 3), torch.randn(2, 16, 4, 6))
    return PixelFeatures(torch.randn(2, 12, 16, 24), memory)


def make(channels=24, **options):
    torch.manual_seed(1)
    shapes = [ShapeSpec(channels=channels, stride=32), ShapeSpec(channels=16, stride=16)]
    return StandardPredictor(**{**OPTIONS, "memory_shape": shapes, **options})


def test_every_layer_predicts_in_training_and_the_last_in_inference(pixels):
    predictor = make()
    training, (inference,) = predictor(pixels), predictor.eval()(pixels)
    assert len(training) == 3
    for prediction in training:
        assert prediction.class_logits.shape == (2, 5, 4)
        assert prediction.mask_logits.shape == (2, 5, 16, 24)
    torch.testing.assert_close(training[-1].class_logits, inference.class_logits)
    torch.testing.assert_close(training[-1].mask_logits, inference.mask_logits)
    assert not torch.allclose(training[0].class_logits, training[1].class_logits)


def test_without_deep_supervision_the_last_layer_alone(pixels):
    full, last = make()(pixels), make(deep_supervision=False)(pixels)
    assert len(last) == 1
    torch.testing.assert_close(last[0].class_logits, full[-1].class_logits)
    torch.testing.assert_close(last[0].mask_logits, full[-1].mask_logits)


def test_masks_are_the_product_of_both_embeddings(pixels):
    predictor = make().eval()
    segments = []
    predictor.class_embed.register_forward_hook(lambda _, inputs, __: segments.append(inputs[0]))
    (prediction,) = predictor(pixels)
    embedding = predictor.mask_embed(segments[0])  # (B, Q, C)
    expected = (embedding[1, 2][:, None, None] * pixels.mask_features[1]).sum(0)
    torch.testing.assert_close(prediction.mask_logits[1, 2], expected, rtol=1e-4, atol=1e-5)


def test_masks_of_pixels_that_autocast_left_in_float32(pixels):
    """As the output of a norm on a GPU."""
    predictor = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = predictor.predict(torch.randn(2, 5, 16), pixels.mask_features)
    assert prediction.mask_logits.dtype == torch.bfloat16
    expected = prediction.mask_embeddings.float() @ pixels.mask_features.flatten(2)
    found = prediction.mask_logits.float().flatten(2)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("num_queries", "by_kernels"), [(5, True), (12, False)])
def test_fewer_masks_than_channels_are_made_by_the_last_convolution(
    pixels, num_queries, by_kernels
):
    """With the same masks; three layers of five, in training, are more than the 12 channels."""
    projection = torch.nn.Conv2d(7, 12, kernel_size=3, padding=1)
    predictor = make(num_queries=num_queries)
    calls = []
    torch.manual_seed(2)
    features = torch.randn(2, 7, 16, 24)
    expected = PixelFeatures(projection(features), pixels.memory)
    pixels = PixelFeatures(features, pixels.memory, projection)
    projection.register_forward_hook(lambda *_: calls.append("whole"))
    for training in (True, False):
        predictor.train(training)
        with torch.no_grad():
            found = predictor(pixels)
            assert len(calls) == (1 if training or not by_kernels else 0)
            for actual, wanted in zip(found, predictor(expected), strict=True):
                torch.testing.assert_close(actual.mask_logits, wanted.mask_logits)
                assert torch.equal(actual.class_logits, wanted.class_logits)
        calls.clear()


@pytest.mark.parametrize(
    ("channels", "enforce", "projected"),
    [(24, False, True), (16, False, False), (16, True, True)],
)
def test_the_map_is_projected_where_it_must_be(channels, enforce, projected):
    predictor = make(channels, enforce_input_proj=enforce)
    assert ("input_proj.weight" in predictor.state_dict()) == projected


@pytest.mark.parametrize("key", ["num_queries", "num_decoder_layers"])
def test_nothing_to_decode(key):
    with pytest.raises(ValueError, match="DEC_LAYERS .*at least 1"):
        make(**{key: 0})
