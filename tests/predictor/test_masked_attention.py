"""Masked attention: its masks by hand, what queries see, how many predictions, errors."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from mask_former.engine import get_cfg
from mask_former.layers import TransformerOptions
from mask_former.predictor import MultiScaleMaskedTransformerDecoder
from mask_former.predictor.masked_attention import attention_mask
from mask_former.structures import PixelFeatures
from tests.predictor.pixels import make_pixels

OPTIONS = TransformerOptions(num_heads=2, dim_feedforward=16, dropout=0.0)


def make(channels=(8, 8, 8), **options):
    torch.manual_seed(0)
    shapes = [ShapeSpec(channels=c, stride=32 // 2**i) for i, c in enumerate(channels)]
    defaults = {"num_classes": 3, "num_queries": 5, "hidden_dim": 8, "mask_dim": 6}
    defaults |= {"num_layers": 4, "transformer": OPTIONS}
    return MultiScaleMaskedTransformerDecoder(memory_shape=shapes, **{**defaults, **options})


def test_attention_masks_by_hand():
    pixels = torch.tensor([[2.0, 0.0, -1.0, -3.0]]).view(1, 1, 2, 2)
    embeddings = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1)
    mask = attention_mask(embeddings, pixels)
    # A probability of 0.5 is inside.
    assert mask[0, 0].tolist() == [
        [True, True, False, False],
        [False, True, True, True],
        [True, True, True, True],
    ]
    # The second query's mask is empty: it may look everywhere.
    mask = attention_mask(embeddings, pixels.clamp(min=1.0))
    assert mask[0, 0].tolist() == [[True] * 4, [True] * 4, [True] * 4]
    mask = attention_mask(embeddings, torch.tensor([-1.0, -2.0, 1.0, -3.0]).view(1, 1, 2, 2))
    assert mask[0, 0].tolist()[:2] == [[False, False, True, False], [True, True, False, True]]


def test_resized_embeddings_give_resized_masks():
    """What the predictor multiplies out is the mask of the published rule, resized afterwards."""
    predictor, pixels = make(), make_pixels()
    seen = []
    for layer in predictor.transformer_cross_attention_layers:
        attention = layer.multihead_attn
        attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[-1]))
    predictions = predictor.train()(pixels)
    for i, prediction in enumerate(predictions[:-1]):
        size = pixels.memory[i % 3].shape[-2:]
        logits = F.interpolate(
            prediction.mask_logits, size=size, mode="bilinear", align_corners=False
        ).flatten(2)
        blocked = logits.sigmoid() < 0.5
        blocked &= ~blocked.all(-1, keepdim=True)
        clear = logits.abs() > 1e-5
        assert ((seen[i][:, 0] == ~blocked) | ~clear).all()
        assert 0.2 < seen[i].float().mean() < 0.8


def test_queries_do_not_see_what_lies_outside_of_their_masks():
    predictor = make(num_queries=1, num_layers=1).eval()
    pixels = make_pixels()
    (first,) = predictor(pixels)
    embedding = predictor.mask_embed(predictor.decoder_norm(predictor.query_feat.weight))
    small = F.interpolate(pixels.mask_features, size=(2, 3), mode="bilinear", align_corners=False)
    inside = torch.einsum("qc,bchw->bqhw", embedding, small)[:, 0] >= 0
    assert 0 < inside.sum() < inside.numel()
    for where, changes in ((~inside, False), (inside, True)):
        changed = (pixels.memory[0] + where[:, None], *pixels.memory[1:])
        (second,) = predictor(PixelFeatures(pixels.mask_features, changed))
        same = torch.equal(first.class_logits, second.class_logits)
        assert same != changes


def test_one_prediction_more_than_layers_and_in_inference_the_last():
    pixels = make_pixels()
    predictor = make()
    predictions = predictor.train()(pixels)
    assert len(predictions) == 5
    assert predictions[0].class_logits.shape == (2, 5, 4)
    assert predictions[0].mask_logits.shape == (2, 5, 16, 24)
    # The first is of the raw queries: the image decides nothing but where the masks are.
    assert torch.equal(*predictions[0].class_logits)
    (last,) = predictor.eval()(pixels)
    assert torch.equal(last.mask_logits, predictions[-1].mask_logits)
    (supervised,) = make(deep_supervision=False).train()(pixels)
    assert torch.equal(supervised.class_logits, last.class_logits)


@pytest.mark.parametrize("channels", [(8,), (12, 8), (8, 8, 8, 8)])
def test_maps_of_any_number_and_width_are_attended_to_in_turn(channels):
    predictor, pixels = make(channels), make_pixels(channels)
    assert predictor.level_embed.weight.shape == (len(channels), 8)
    memory = [feature.requires_grad_() for feature in pixels.memory]
    predictions = predictor.train()(pixels)
    for i, prediction in enumerate(predictions):
        grads = torch.autograd.grad(
            prediction.class_logits.square().sum(), memory, retain_graph=True, allow_unused=True
        )
        seen = [grad is not None and grad.abs().max() > 0 for grad in grads]
        assert seen == [level < i for level in range(len(channels))]
    projections = [name for name in predictor.state_dict() if name.startswith("input_proj")]
    assert projections == (["input_proj.0.weight", "input_proj.0.bias"] if 12 in channels else [])


def test_masks_pass_no_gradient():
    """The embeddings learn by their own masks alone, not by where the next layer looked."""
    predictor, pixels = make(), make_pixels()
    pixels.mask_features.requires_grad_()
    last = predictor.train()(pixels)[-1]
    (grad,) = torch.autograd.grad(last.class_logits.sum(), pixels.mask_features, allow_unused=True)
    assert grad is None


def test_pre_norm_is_another_model():
    pixels = make_pixels()
    options = TransformerOptions(num_heads=2, dim_feedforward=16, dropout=0.0, pre_norm=True)
    (post,), (pre,) = (make(transformer=o).eval()(pixels) for o in (OPTIONS, options))
    assert (post.class_logits - pre.class_logits).abs().max() > 1e-3


def test_what_cannot_be_built_is_said():
    with pytest.raises(ValueError, match="DEC_LAYERS 1; .*at least 2"):
        make(num_layers=0)
    with pytest.raises(ValueError, match="NUM_OBJECT_QUERIES is 0"):
        make(num_queries=0)
    with pytest.raises(ValueError, match="3 attention heads do not divide 8 channels: .*NHEADS"):
        make(transformer=TransformerOptions(num_heads=3))
    cfg = get_cfg()
    cfg.MODEL.MASK_FORMER.ENC_LAYERS = 2
    with pytest.raises(ValueError, match="ENC_LAYERS is 2, but MultiScaleMasked.* has no encoder"):
        MultiScaleMaskedTransformerDecoder(cfg, [ShapeSpec(channels=8, stride=32)])
