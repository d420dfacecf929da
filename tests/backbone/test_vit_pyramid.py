"""The simple feature pyramid against Detectron2's, under heads, and with weights of files."""

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from mask_former.backbone import ViTEncoder, ViTPyramid
from mask_former.checkpoint import MaskFormerCheckpointer
from mask_former.engine import build_model
from mask_former.engine.optimizer import build_optimizer
from mask_former.errors import UserError
from tests.backbone.training import MASK2FORMER, assert_trains
from tests.engine.tiny import tiny_cfg

VIT = "vit_tiny_patch16_224"
DINOV3 = "vit_tiny_patch16_dinov3_qkvb"
NAMES = ["res2", "res3", "res4", "res5"]


def vit_cfg(name=VIT, **options):
    names = {"MODEL__BACKBONE__NAME": "ViTPyramid", "MODEL__VIT__NAME": name}
    names |= {"MODEL__VIT__OUT_CHANNELS": 32}
    return tiny_cfg("unused", **{**names, **options})


def make(name=VIT, patch_size=16, **options):
    torch.manual_seed(0)
    return ViTPyramid(encoder=ViTEncoder(name=name, patch_size=patch_size), **options)


class Last(Backbone):
    """What Detectron2's pyramid stands on: one map."""

    def forward(self, x):
        return {"last": x}

    def output_shape(self):
        return {"last": ShapeSpec(channels=192, stride=16)}


@torch.no_grad()
def test_maps_are_those_of_detectron2s_pyramid():
    ours = make(channels=24).eval()
    theirs = SimpleFeaturePyramid(Last(), "last", 24, (4.0, 2.0, 1.0, 0.5)).eval()
    for name, stage in zip(NAMES, theirs.stages, strict=True):
        stage.load_state_dict(ours.get_submodule(name).state_dict())
    images = torch.randn(1, 3, 64, 96)
    found = ours(images)
    for name, expected in zip(NAMES, theirs(ours.encoder(images).patches).values(), strict=True):
        torch.testing.assert_close(found[name], expected)
        assert ours.output_shape()[name] == ShapeSpec(channels=24, stride=64 // expected.shape[2])


@pytest.mark.parametrize("patch_size", [8, 16, 32])
def test_any_size_and_every_weight_learns(patch_size):
    backbone = make(patch_size=patch_size, channels=16).train()
    maps = backbone(torch.randn(1, 3, 50, 70))
    assert [tuple(x.shape[-2:]) for x in maps.values()] == [(13, 18), (7, 9), (4, 5), (2, 3)]
    sum(x.square().mean() for x in maps.values()).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("head", [{}, MASK2FORMER], ids=["maskformer", "mask2former"])
@pytest.mark.parametrize("name", [VIT, DINOV3])
def test_trains(name, head):
    assert_trains(vit_cfg(name, SOLVER__BASE_LR=1e-3, SOLVER__LAYER_DECAY=0.9, **head))


def test_rates_and_decays():
    """Of the blocks by layer, and what stands on them learns at the backbone's full rate."""
    cfg = vit_cfg(DINOV3, SOLVER__LAYER_DECAY=0.8, SOLVER__WEIGHT_DECAY=0.05)
    model = build_model(cfg)
    names = {p: name for name, p in model.named_parameters()}
    found = {
        names[p].removeprefix("backbone."): (g["lr"] / cfg.SOLVER.BASE_LR, g["weight_decay"])
        for g in build_optimizer(cfg, model).param_groups
        for p in g["params"]
    }
    block, last = "encoder.model.blocks.2.", "encoder.model.blocks.11."
    expected = {
        "encoder.model.reg_token": (0.1 * 0.8**11, 0),
        "encoder.model.patch_embed.proj.weight": (0.1 * 0.8**11, 0.05),
        f"{block}attn.proj.weight": (0.1 * 0.8**9, 0.05),
        f"{block}norm1.weight": (0.1 * 0.8**9, 0),
        f"{block}gamma_1": (0.1 * 0.8**9, 0),
        f"{last}attn.proj.weight": (0.1, 0.05),
        "encoder.model.norm.weight": (0.1, 0),
        "res2.0.weight": (0.1, 0.05),
        "sem_seg_head.predictor.query_embed.weight": (1, 0),
    }
    assert {name: found[name] for name in expected} == {
        name: pytest.approx(values) for name, values in expected.items()
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of timm's, for images of 224 pixels in patches of 16, and its weights."""
    weights = timm.create_model(VIT).state_dict()
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(weights, path)
    return str(path), weights


def test_a_file_of_timm_for_another_size(file):
    path, weights = file
    model = build_model(vit_cfg(MODEL__VIT__IMG_SIZE=64))
    MaskFormerCheckpointer(model).load(path)
    found = model.backbone.encoder.model.state_dict()
    expected = resample_abs_pos_embed(weights["pos_embed"], (4, 4), (14, 14))
    assert found["pos_embed"].shape == (1, 17, 192)
    torch.testing.assert_close(found["pos_embed"], expected)
    assert all(torch.equal(found[k], weights[k]) for k in found if k != "pos_embed")
    assert len(found) > 140


def test_a_file_for_another_model(file):
    model = build_model(vit_cfg(DINOV3))
    with pytest.raises(UserError, match="does not fit the backbone"):
        MaskFormerCheckpointer(model).load(file[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_small_patch14_reg4_dinov2", "patch_size": 0}, "14 pixels.*PATCH_SIZE to 16"),
        ({"out_features": ["res2", "p3"]}, "OUT_FEATURES is .*'p3'.*known are res1, res2"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)
