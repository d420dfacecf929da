"""Every pixel decoder with every predictor and every memory."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head

from mask_former.errors import UserError
from tests.engine.tiny import CHANNELS, tiny_cfg

SHAPES = {
    name: ShapeSpec(channels=channels, stride=4 * 2**i)
    for i, (name, channels) in enumerate(CHANNELS.items())
}
OFFERED = {
    "BasePixelDecoder": ["res4", "pixel_embedding", "multi_scale_pixel_decoder"],
    "TransformerEncoderPixelDecoder": ["transformer_encoder", "multi_scale_pixel_decoder"],
    "MSDeformAttnPixelDecoder": [
        "res4",
        "pixel_embedding",
        "transformer_encoder",
        "multi_scale_pixel_decoder",
    ],
}
PREDICTORS = ["StandardPredictor", "MultiScaleMaskedTransformerDecoder"]
MIXES = [
    (decoder, memory, predictor)
    for decoder, memories in OFFERED.items()
    for memory in memories
    for predictor in PREDICTORS
]


def build(decoder, memory, predictor):
    torch.manual_seed(0)
    cfg = tiny_cfg(
        "",
        MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME=decoder,
        MODEL__SEM_SEG_HEAD__TRANSFORMER_ENC_LAYERS=1,
        MODEL__SEM_SEG_HEAD__MASK_DIM=16,
        MODEL__MASK_FORMER__PREDICTOR_NAME=predictor,
        MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE=memory,
        MODEL__MASK_FORMER__DEC_LAYERS=4,
        MODEL__MASK_FORMER__DROPOUT=0.0,
    )
    return build_sem_seg_head(cfg, SHAPES)


def make_features(height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(
            2, s.channels, -(-height // s.stride), -(-width // s.stride), generator=generator
        )
        for name, s in SHAPES.items()
    }


@pytest.mark.parametrize(("decoder", "memory", "predictor"), MIXES)
def test_every_mix_predicts_and_all_of_it_learns(decoder, memory, predictor):
    head = build(decoder, memory, predictor)
    with torch.no_grad():
        for parameter in head.parameters():  # some start from zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    predictions = head.train()(make_features(61, 93))
    assert len(predictions) == 4
    for prediction in predictions:
        assert prediction.class_logits.shape == (2, 20, 11)
        assert prediction.mask_logits.shape == (2, 20, 16, 24)
    last = predictions[-1]
    (last.class_logits.square().mean() + last.mask_logits.square().mean()).backward()
    idle = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    (final,) = head.eval()(make_features(61, 93))
    torch.testing.assert_close(final.mask_logits, last.mask_logits)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("decoder", OFFERED)
def test_mixed_precision_is_nearly_float32(decoder, predictor):
    head = build(decoder, "multi_scale_pixel_decoder", predictor).train()
    features = make_features()
    full = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(features)
    # Multiplied out in bfloat16 outside of autocast as well, as in the losses.
    assert mixed[0].mask_logits.dtype == torch.bfloat16
    scale = full[0].mask_logits.std()
    assert (mixed[0].mask_logits - full[0].mask_logits).abs().max() < 0.1 * scale


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
        ("MODEL.MASK_FORMER.PREDICTOR_NAME", "StandardPredictor"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardPredictor"),
    ],
)
def test_a_name_that_nothing_has(key, known):
    cfg = tiny_cfg("", **{key.replace(".", "__"): "StandardTransformer"})
    with pytest.raises(UserError, match=f"{key} is 'StandardTransformer', .* one of .*{known}"):
        build_sem_seg_head(cfg, SHAPES)
