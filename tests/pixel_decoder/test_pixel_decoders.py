"""Both pixel decoders: names, shapes, what depends on what, errors."""

import pytest
import torch

from mask_former.layers import TransformerOptions
from mask_former.pixel_decoder import BasePixelDecoder, TransformerEncoderPixelDecoder
from tests.pixel_decoder.maps import SHAPES, make_features

OPTIONS = {"input_shape": SHAPES, "in_features": list(SHAPES), "conv_dim": 32, "mask_dim": 20}


def make(decoder, **options):
    if decoder is TransformerEncoderPixelDecoder:
        transformer = TransformerOptions(num_heads=4, dim_feedforward=16)
        options = {"num_layers": 1, "transformer": transformer, **options}
    return decoder(**{**OPTIONS, **options}).eval()


@pytest.fixture(params=["fpn", "transformer"])
def decoder(request):
    torch.manual_seed(1)
    if request.param == "fpn":
        return make(BasePixelDecoder)
    return make(TransformerEncoderPixelDecoder)


def test_the_memory_is_what_it_is_called():
    features = make_features()
    (res4,) = make(BasePixelDecoder, memory="res4")(features).memory
    assert res4 is features["res4"]
    pixels = make(BasePixelDecoder, memory="pixel_embedding")(features)
    assert pixels.memory[0] is pixels.mask_features
    decoder = make(BasePixelDecoder, memory="multi_scale_pixel_decoder")
    assert torch.equal(decoder(features).memory[0], decoder.layer_4(features["res5"]))


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
    decoder = BasePixelDecoder(
        **{**OPTIONS, "in_features": ["res3", "res5"], "memory": "multi_scale_pixel_decoder"}
    )
    pixels = decoder(make_features())
    assert pixels.mask_features.shape == (2, 20, 8, 12)
    assert [shape.stride for shape in decoder.memory_shape] == [32, 8]
    assert "adapter_2.weight" not in decoder.state_dict()


def test_the_encoded_map_sees_the_whole_image():
    decoder = make(TransformerEncoderPixelDecoder, memory="transformer_encoder")
    features = make_features()
    (encoded,) = decoder(features).memory
    features["res5"][:, :, 0, 0] += 1.0
    (changed,) = decoder(features).memory
    assert (changed - encoded).abs().amax((0, 1)).min() > 1e-6


def test_without_norm_the_convolutions_have_biases():
    assert "layer_1.bias" in BasePixelDecoder(**OPTIONS, norm="").state_dict()
    assert "layer_1.bias" not in BasePixelDecoder(**OPTIONS, norm="GN").state_dict()


def test_an_unknown_feature_is_named():
    with pytest.raises(ValueError, match=r"names \['res6'\].*only \['res2'"):
        BasePixelDecoder(**{**OPTIONS, "in_features": ["res2", "res6"]})
    with pytest.raises(ValueError, match=r"names no map.*only \['res2'"):
        BasePixelDecoder(**{**OPTIONS, "in_features": []})


def test_an_unknown_memory_is_named():
    with pytest.raises(ValueError, match="FEATURE is 'transformer_encoder', but .*'res2'"):
        make(BasePixelDecoder, memory="transformer_encoder")
