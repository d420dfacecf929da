"""Mask2Former's pixel decoder: shapes, what it depends on, precision, errors."""

import pytest
import torch

from mask_former.layers import TransformerOptions
from mask_former.pixel_decoder import MSDeformAttnPixelDecoder
from tests.pixel_decoder.maps import SHAPES, make_features


def make(**options):
    torch.manual_seed(1)
    defaults = {
        "input_shape": SHAPES,
        "in_features": list(SHAPES),
        "encoder_in_features": ["res3", "res4", "res5"],
        "conv_dim": 32,
        "mask_dim": 20,
        "num_layers": 2,
        "transformer": TransformerOptions(num_heads=4, dim_feedforward=16, dropout=0.0),
    }
    return MSDeformAttnPixelDecoder(**{**defaults, **options})


def test_every_encoded_map_sees_every_other_and_the_embeddings_see_all():
    decoder = make()
    features = {name: x.requires_grad_() for name, x in make_features().items()}
    for feature in decoder(features).memory:
        grads = torch.autograd.grad(
            feature.square().sum(), list(features.values()), retain_graph=True, allow_unused=True
        )
        assert grads[0] is None  # res2 joins behind the encoder
        assert all(grad.abs().max() > 0 for grad in grads[1:])
    decoder(features).mask_features.square().sum().backward()
    assert all(x.grad.abs().max() > 0 for x in features.values())


@pytest.mark.parametrize(
    "encoder_maps, stride, lateral, memory",
    [
        (["res5", "res2", "res4", "res3"], 4, 0, [32, 16, 8]),
        (["res4", "res5"], 4, 2, [32, 16, 8]),
        (["res5"], 8, 2, [32, 16, 8]),
        (["res3", "res4", "res5"], 8, 0, [32, 16, 8]),
    ],
)
def test_encoder_and_fpn_share_the_maps(encoder_maps, stride, lateral, memory):
    decoder = make(encoder_in_features=encoder_maps, common_stride=stride)
    assert [shape.stride for shape in decoder.memory_shape] == memory
    names = {name.split(".")[0] for name in decoder.state_dict()}
    assert {name for name in names if name.startswith("adapter_")} == {
        f"adapter_{i + 1}" for i in range(lateral)
    }
    assert decoder(make_features()).mask_features.shape == (2, 20, 64 // stride, 96 // stride)


def test_it_computes_in_float32_under_autocast():
    decoder = make()
    features = make_features()
    expected = decoder(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = decoder(features)
        low = decoder({name: x.bfloat16() for name, x in features.items()})
    assert torch.equal(actual.mask_features, expected.mask_features.bfloat16())
    for memory in zip(actual.memory, expected.memory, strict=True):
        assert torch.equal(*memory)
    for memory in zip(low.memory, expected.memory, strict=True):
        torch.testing.assert_close(*memory, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"encoder_in_features": ["res3", "p6"]}, r"ENCODER_IN_FEATURES names \['p6'\]"),
        ({"in_features": []}, "IN_FEATURES names no map"),
        ({"in_features": ["res3", "res4", "res5"]}, "COMMON_STRIDE is 4, .*is res3, of stride 8"),
        ({"common_stride": 2}, "COMMON_STRIDE is 2, .*is res2, of stride 4"),
        ({"transformer": TransformerOptions(num_heads=5)}, "5 deformable attention heads do not"),
        ({"memory": "res6"}, "FEATURE is 'res6', but .*'transformer_encoder'"),
    ],
)
def test_what_cannot_be_decoded_is_said(options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)
