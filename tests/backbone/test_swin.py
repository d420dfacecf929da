"""Swin as a Detectron2 backbone: published names, shapes of the stages, errors."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from mask_former.backbone import D2SwinTransformer
from mask_former.engine import get_cfg

TINY = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}


def test_from_a_config():
    cfg = get_cfg()
    cfg.MODEL.SWIN.EMBED_DIM = 12
    cfg.MODEL.SWIN.DEPTHS = [1, 1, 1, 1]
    swin = D2SwinTransformer(cfg, ShapeSpec(channels=3))
    state = swin.state_dict()
    assert tuple(state["layers.0.blocks.0.attn.relative_position_bias_table"].shape) == (169, 3)
    assert {f"norm{i}.weight" for i in range(4)} <= state.keys()
    assert swin.size_divisibility == 32
    assert [s.channels for s in swin.output_shape().values()] == [12, 24, 48, 96]


@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_output_shape_is_what_comes_out(size):
    swin = D2SwinTransformer(out_features=["res2", "res4"], **TINY).eval()
    outputs = swin(torch.randn(2, 3, *size))
    assert list(outputs) == list(swin.output_shape()) == ["res2", "res4"]
    for name, shape in swin.output_shape().items():
        expected = (2, shape.channels, *(-(-x // shape.stride) for x in size))
        assert outputs[name].shape == expected


def test_unknown_stage():
    with pytest.raises(ValueError, match=r"\['p3'\].*'res2'"):
        D2SwinTransformer(out_features=["p3"], **TINY)
