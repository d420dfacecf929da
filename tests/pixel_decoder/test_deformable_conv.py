"""PEM's pixel decoder: shapes, what sees what, its published oddities, errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask_former.pixel_decoder import PEM_Pixel_Decoder
from mask_former.pixel_decoder.deformable_conv import ContextGate, DeformableUpsampling
from tests.pixel_decoder.maps import SHAPES, make_features


def make(**options):
    torch.manual_seed(1)
    defaults = {"input_shape": SHAPES, "in_features": list(SHAPES), "norm": "BN"}
    return PEM_Pixel_Decoder(**{**defaults, "conv_dim": 32, "mask_dim": 20, **options})


def test_a_map_sees_the_coarser_ones_and_the_embeddings_see_all():
    decoder = make()
    features = {name: x.requires_grad_() for name, x in make_features().items()}
    pixels = decoder(features)
    for i, feature in enumerate((*pixels.memory, pixels.mask_features)):
        gradients = torch.autograd.grad(
            feature.square().sum(), list(features.values()), retain_graph=True, allow_unused=True
        )
        seen = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert seen == [level >= 3 - i for level in range(4)]


def test_a_shorter_pyramid_in_any_order():
    decoder = make(in_features=["res4", "res2", "res3"])
    assert [shape.stride for shape in decoder.memory_shape] == [16, 8]
    assert decoder(make_features()).mask_features.shape == (2, 20, 16, 24)
    again = make(in_features=["res2", "res3", "res4"])
    assert torch.equal(*(d(make_features()).mask_features for d in (decoder, again)))


def test_the_gate_is_a_sigmoid_of_a_sigmoid():
    """As published: the factor lies between 1 + sigmoid(0) and 1 + sigmoid(1)."""
    torch.manual_seed(0)
    gate = ContextGate(8, "BN").eval()
    x = 100 * torch.randn(3, 8, 4, 5)
    factors = gate(x) / x
    assert torch.allclose(factors, factors[..., :1, :1].expand_as(factors), atol=1e-4)
    assert 1.5 <= factors.min() < 1.55 and 1.65 < factors.max() <= 1.7311
    # Every channel sees the mean of the image over all channels.
    gate.zero_grad()
    x = torch.randn(1, 8, 4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad((gate(x) / x.detach())[0, 0, 0, 0], x)
    assert (gradient[0, 1:] != 0).any()


def test_per_pixel_embeddings_are_not_negative():
    """As published, with a ReLU."""
    embeddings = make()(make_features()).mask_features
    assert embeddings.min() == 0 and 0.2 < (embeddings > 0).float().mean() < 0.8


def test_deformable_convolutions_start_as_convolutions_of_half_the_weight():
    torch.manual_seed(0)
    layer = DeformableUpsampling(4, "BN").eval()
    x = torch.randn(2, 4, 5, 6)
    feature, up = layer(x)
    expected = F.relu(0.5 * F.conv2d(x, layer.dcn.weight, padding=1))
    torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)
    assert up.shape == (2, 4, 10, 12)


def test_upsampling_starts_as_bilinear_into_the_first_channel_alone():
    layer = DeformableUpsampling(3, "BN")
    x = torch.randn(1, 1, 6, 6)
    weight = layer.up_sample.weight
    up = F.conv_transpose2d(x, weight[:1, :1], stride=2, padding=1)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(up[inside], expected[inside])
    assert torch.equal(weight[0, 0], weight[2, 0]) and not torch.equal(weight[0, 0], weight[0, 1])


@pytest.mark.parametrize("norm", ["BN", "LN", "", "FrozenBN", "SyncBN"])
def test_norms(norm):
    decoder = make(norm=norm).train()
    decoder(make_features()).mask_features.sum().backward()
    assert all(p.grad is not None for p in decoder.out.parameters())


def test_mixed_precision():
    decoder = make().eval()
    expected = decoder(make_features()).mask_features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = decoder(make_features()).mask_features
    assert (actual - expected).abs().max() < 0.05 * expected.max()


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_one_image_alone_has_no_statistics(norm):
    decoder = make(norm=norm)
    with pytest.raises(ValueError, match="one image.*IMS_PER_BATCH.*NORM to LN"):
        decoder.train()(make_features(batch=1))
    assert decoder.eval()(make_features(batch=1)).mask_features.shape == (1, 20, 16, 24)
    for module in decoder.train().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    assert decoder(make_features(batch=1)).mask_features.shape == (1, 20, 16, 24)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"in_features": []}, "IN_FEATURES names no map"),
        ({"in_features": ["res3", "p6"]}, r"IN_FEATURES names \['p6'\]"),
        ({"in_features": ["res2", "res4"]}, r"strides \[4, 16\].*double"),
        ({"norm": "GN"}, "NORM is 'GN', but PEM_Pixel_Decoder needs one of BN"),
        ({"memory": "res6"}, "FEATURE is 'res6', but .*'multi_scale_pixel_decoder'"),
    ],
)
def test_what_cannot_be_decoded_is_said(options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)
