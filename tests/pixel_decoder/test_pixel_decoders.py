"""Both pixel decoders: names, shapes, what depends on what, errors."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from mask_former.pixel_decoder import BasePixelDecoder, TransformerEncoderPixelDecoder

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 24}
SHAPES = {
    name: ShapeSpec(channels=c, stride=4 * 2**i) for i, (name, c) in enumerate(CHANNELS.items())
}
OPTIONS = {"input_shape": SHAPES, "in_features": list(SHAPES), "conv_dim": 32, "mask_dim": 20}


def make_features(height=64, width=96, batch=2):
    torch.manual_seed(0)
    return {
        name: torch.randn(batch, s.channels, -(-height // s.stride), -(-width // s.stride))
        for name, s in SHAPES.items()
    }


@pytest.fixture(params=["fpn", "transformer"])
def decoder(request):
    torch.manual_seed(1)
    if request.param == "fpn":
        return BasePixelDecoder(**OPTIONS).eval()
    return TransformerEncoderPixelDecoder(**OPTIONS, num_layers=2, num_heads=4).eval()


@pytest.mark.parametrize("size", [(64, 96), (61, 93)])
def test_maps_have_the_promised_shapes(decoder, size):
    pixels = decoder(make_features(*size))
    stride4 = tuple(-(-x // 4) for x in size)
    assert pixels.mask_features.shape == (2, 20, *stride4)
    assert pixels.maps.keys() == decoder.output_shape().keys()
    for name, shape in decoder.output_shape().items():
        expected = (2, shape.channels, *(-(-x // shape.stride) for x in size))
        assert pixels.maps[name].shape == expected, name


def test_every_feature_reaches_the_embeddings(decoder):
    features = {name: x.requires_grad_() for name, x in make_features().items()}
    decoder(features).mask_features.square().sum().backward()
    assert all(x.grad.abs().max() > 0 for x in features.values())


def test_in_features_may_come_in_any_order():
    torch.manual_seed(1)
    a = BasePixelDecoder(**OPTIONS)
    torch.manual_seed(1)
    b = BasePixelDecoder(**{**OPTIONS, "in_features": ["res5", "res2", "res4", "res3"]})
    assert torch.equal(a(make_features()).mask_features, b(make_features()).mask_features)


def test_a_shorter_pyramid():
    decoder = BasePixelDecoder(**{**OPTIONS, "in_features": ["res3", "res5"]})
    pixels = decoder(make_features())
    assert pixels.mask_features.shape == (2, 20, 8, 12)
    assert decoder.output_shape()["pixel_embedding"].stride == 8
    assert "adapter_2.weight" not in decoder.state_dict()


def test_the_encoded_map_sees_the_whole_image():
    decoder = TransformerEncoderPixelDecoder(**OPTIONS, num_layers=1, num_heads=4).eval()
    features = make_features()
    encoded = decoder(features).maps["transformer_encoder"]
    features["res5"][:, :, 0, 0] += 1.0
    changed = decoder(features).maps["transformer_encoder"]
    assert (changed - encoded).abs().amax((0, 1)).min() > 1e-6


def test_without_norm_the_convolutions_have_biases():
    assert "layer_1.bias" in BasePixelDecoder(**OPTIONS, norm="").state_dict()
    assert "layer_1.bias" not in BasePixelDecoder(**OPTIONS, norm="GN").state_dict()


def test_an_unknown_feature_is_named():
    with pytest.raises(ValueError, match=r"names \['res6'\].*only \['res2'"):
        BasePixelDecoder(**{**OPTIONS, "in_features": ["res2", "res6"]})
    with pytest.raises(ValueError, match=r"names no map.*only \['res2'"):
        BasePixelDecoder(**{**OPTIONS, "in_features": []})
