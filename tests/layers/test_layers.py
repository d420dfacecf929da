"""Attention, transformer stacks, position encoding and MLP against PyTorch's own modules."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mask_former.layers import (
    MLP,
    Attention,
    Transformer,
    TransformerOptions,
    flatten_map,
    sine_position_encoding,
)
from mask_former.layers.transformer import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

B, Q, S, C, HEADS = 2, 5, 7, 16, 4
OPTIONS = TransformerOptions(num_heads=HEADS, dim_feedforward=32, dropout=0.0)
THEIRS = {"dim_feedforward": 32, "dropout": 0.0, "batch_first": True}


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return torch.randn(B, Q, C), torch.randn(B, S, C), torch.randn(B, S, C)


def test_attention_equals_pytorch_with_its_weights(tensors):
    ours = Attention(C, HEADS)
    nn.init.normal_(ours.in_proj_bias)
    theirs = nn.MultiheadAttention(C, HEADS, batch_first=True)
    theirs.load_state_dict(ours.state_dict())  # strict: same names, same shapes
    torch.testing.assert_close(ours(*tensors), theirs(*tensors)[0])


def test_attention_looks_only_where_the_mask_allows(tensors):
    ours = Attention(C, HEADS)
    theirs = nn.MultiheadAttention(C, HEADS, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    mask = torch.rand(B, 1, Q, S) < 0.5
    mask[..., 0] = True
    forbidden = ~mask.expand(-1, HEADS, -1, -1).flatten(0, 1)
    expected = theirs(*tensors, attn_mask=forbidden)[0]
    torch.testing.assert_close(ours(*tensors, mask), expected)


def test_attention_drops_weights_in_training_only(tensors):
    attention = Attention(C, HEADS, dropout=0.5)
    assert not torch.equal(attention(*tensors), attention(*tensors))
    attention.eval()
    assert torch.equal(attention(*tensors), attention(*tensors))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 attention heads do not divide 16"):
        Attention(16, 3)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer_equals_pytorch_without_positions(tensors, pre_norm):
    ours = TransformerEncoderLayer(C, replace(OPTIONS, pre_norm=pre_norm))
    theirs = nn.TransformerEncoderLayer(
        C, HEADS, 32, dropout=0.0, norm_first=pre_norm, batch_first=True
    )
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(tensors[1], torch.zeros(1)), theirs(tensors[1]))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer_equals_pytorch_without_positions(tensors, pre_norm):
    ours = TransformerDecoderLayer(C, replace(OPTIONS, pre_norm=pre_norm))
    theirs = nn.TransformerDecoderLayer(
        C, HEADS, 32, dropout=0.0, norm_first=pre_norm, batch_first=True
    )
    theirs.load_state_dict(ours.state_dict())
    x, memory, _ = tensors
    actual = ours(x, torch.zeros(1), memory, memory)
    torch.testing.assert_close(actual, theirs(x, memory))


def test_positions_are_added_to_queries_and_keys_but_not_to_values(tensors):
    # With equal positions everywhere the attention weights stay as they are.
    layer = TransformerEncoderLayer(C, OPTIONS)
    layer.self_attn.in_proj_bias.data.zero_()
    x = tensors[1]
    same = x[:, :1].expand_as(x)
    torch.testing.assert_close(layer(same, torch.ones(C)), layer(same, torch.zeros(C)))
    assert not torch.allclose(layer(x, tensors[2]), layer(x, torch.zeros(C)))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_only_pre_norm_ends_the_encoder_in_a_norm(tensors, pre_norm):
    encoder = TransformerEncoder(C, 2, replace(OPTIONS, pre_norm=pre_norm))
    assert ("norm.weight" in encoder.state_dict()) == pre_norm
    nn.init.constant_(encoder.layers[1].norm2.weight, 3.0)
    std = encoder(tensors[1], torch.zeros(1)).std(-1, correction=0).mean().item()
    assert std == pytest.approx(1.0 if pre_norm else 3.0, rel=1e-3)


def test_decoder_returns_every_layer_through_the_shared_norm(tensors):
    decoder = TransformerDecoder(C, 3, OPTIONS)
    query_pos, memory, pos = torch.randn(Q, C), tensors[1], tensors[2]
    outputs = decoder(query_pos, memory, pos)
    assert [o.shape for o in outputs] == [(B, Q, C)] * 3
    x = torch.zeros(B, Q, C)
    for layer, output in zip(decoder.layers, outputs, strict=True):
        x = layer(x, query_pos, memory, memory + pos)
        torch.testing.assert_close(output, decoder.norm(x))


def test_decoding_does_not_depend_on_the_order_of_memory_or_queries():
    torch.manual_seed(0)
    model = Transformer(C, num_encoder_layers=1, num_decoder_layers=2, options=OPTIONS)
    feature, pos, queries = torch.randn(B, C, 3, 4), torch.randn(1, C, 3, 4), torch.randn(Q, C)
    last = model(feature, queries, pos)[-1]
    flipped = model(feature.flip(3), queries.flip(0), pos.flip(3))[-1]
    torch.testing.assert_close(flipped.flip(1), last)


def test_flatten_map():
    feature = torch.arange(24.0).view(1, 2, 3, 4)
    assert flatten_map(feature)[0, 5].tolist() == [5, 17]


class TestPositionEncoding:
    def test_by_hand(self):
        # 8 channels: y in the first 4, x in the last; frequencies 1 and 1/100.
        encoding = sine_position_encoding(torch.zeros(1, 8, 2, 4))
        assert encoding.shape == (1, 8, 2, 4)
        y, x = 2 * math.pi * 1 / 2, 2 * math.pi * 3 / 4  # row 0 of 2, column 2 of 4
        expected = [f(a / s) for a in (y, x) for s in (1, 100) for f in (math.sin, math.cos)]
        assert encoding[0, :, 0, 2].tolist() == pytest.approx(expected, abs=1e-5)

    def test_batch_and_values_do_not_matter(self):
        feature = torch.randn(3, 12, 5, 6)
        assert torch.equal(sine_position_encoding(feature), sine_position_encoding(feature[:1] * 0))

    def test_channels_must_be_divisible_by_four(self):
        with pytest.raises(ValueError, match="got 6: .*HIDDEN_DIM"):
            sine_position_encoding(torch.zeros(1, 6, 2, 2))


def test_mlp_equals_the_composition():
    mlp = MLP(3, 5, 2, num_layers=3)
    x = torch.randn(4, 3)
    a, b, c = mlp.layers
    torch.testing.assert_close(mlp(x), c(b(a(x).relu()).relu()))
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(5, 3), (5, 5), (2, 5)]
