"""Models of timm as backbones, against timm's own feature extraction."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file

from mask_former.backbone import TimmBackbone
from mask_former.backbone.checkpointing import set_grad_checkpointing
from mask_former.checkpoint import MaskFormerCheckpointer
from mask_former.engine import build_model
from mask_former.engine.optimizer import build_optimizer
from mask_former.errors import UserError
from tests.backbone.test_checkpointing import saved_bytes
from tests.backbone.training import MASK2FORMER, assert_trains
from tests.engine.tiny import tiny_cfg

# The smallest model of each family, or nearly so.
FAMILIES = {
    "efficientnet": "tinynet_e",
    "convnext": "convnext_zepto_rms",
    "hrnet": "hrnet_w18_small",
    "pvt_v2": "pvt_v2_b0",
    "mobilenet": "mobilenetv3_small_050",
    "regnet": "regnetx_002",
}
SMALL = FAMILIES["mobilenet"]
NAMES = ["res2", "res3", "res4", "res5"]
STRIDES = [4, 8, 16, 32]
IMAGENET = {
    "MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL__PIXEL_STD": [58.395, 57.12, 57.375],
}


def timm_cfg(name, **options):
    names = {"MODEL__BACKBONE__NAME": "TimmBackbone", "MODEL__TIMM__NAME": name}
    names |= {"MODEL__BACKBONE__FREEZE_AT": 0}
    return tiny_cfg("unused", **{**names, **IMAGENET, **options})


def make(name=SMALL, seed=0, **options):
    torch.manual_seed(seed)
    return TimmBackbone(name=name, **options)


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def family(request):
    """Name, timm's classifier, and its own feature extraction with the same weights."""
    torch.manual_seed(0)
    classifier = timm.create_model(request.param)
    weights = {"state_dict": classifier.state_dict()}
    features = timm.create_model(
        request.param, features_only=True, pretrained=True, pretrained_cfg_overlay=weights
    )
    return request.param, classifier, features.eval()


@torch.no_grad()
def test_a_file_of_timm_gives_the_maps_of_timm(family, tmp_path):
    name, classifier, features = family
    file = tmp_path / "model.safetensors"
    save_file(classifier.state_dict(), file)
    model = build_model(timm_cfg(name)).eval()
    MaskFormerCheckpointer(model).load(str(file))
    image = torch.randn(1, 3, 64, 96)
    found, expected = model.backbone(image), features(image)[-4:]
    assert list(found) == NAMES
    for feature, reference, (map_name, shape) in zip(
        found.values(), expected, model.backbone.output_shape().items(), strict=True
    ):
        torch.testing.assert_close(feature, reference)
        assert (
            feature.shape[1]
            == shape.channels
            == features.feature_info.channels()[
                features.feature_info.reduction().index(shape.stride)
            ]
        )
        assert map_name == f"res{[*STRIDES].index(shape.stride) + 2}"


def test_any_size_and_every_weight_learns(family):
    """Sizes that 32 does not divide are rounded up; nothing is left that gets no gradient."""
    backbone = make(family[0]).train()
    features = backbone(torch.randn(2, 3, 50, 70))
    assert [tuple(x.shape[-2:]) for x in features.values()] == [(13, 18), (7, 9), (4, 5), (2, 3)]
    sum(x.square().mean() for x in features.values()).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("head", [{}, MASK2FORMER], ids=["maskformer", "mask2former"])
def test_trains(family, head):
    assert_trains(timm_cfg(family[0], SOLVER__BASE_LR=1e-3, **head))


@torch.no_grad()
def test_a_size_between_is_the_padded_image():
    backbone = make().eval()
    image = torch.randn(1, 3, 40, 90)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :40, :90] = image
    for (_, found), whole in zip(backbone(image).items(), backbone(padded).values(), strict=True):
        assert torch.equal(found, whole[..., : found.shape[-2], : found.shape[-1]])


def test_layers_that_only_coarser_maps_need_are_not_made():
    backbone = make(out_features=["res4", "res1"])
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {
        "res1": 2,
        "res4": 16,
    }
    assert backbone.size_divisibility == 16
    assert len(backbone.state_dict()) < len(make().state_dict())
    assert list(backbone(torch.randn(2, 3, 32, 32))) == ["res1", "res4"]


def test_images_of_any_number_of_channels():
    assert make(in_chans=4)(torch.randn(2, 4, 64, 64))["res5"].shape[-2:] == (2, 2)


def learning(backbone):
    names = (name for name, p in backbone.named_parameters() if p.requires_grad)
    return {name.removeprefix("model.") for name in names}


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [(0, ()), (1, ("conv1", "bn1")), (3, ("conv1", "bn1", "layer1", "layer2"))],
)
def test_frozen_stages(freeze_at, frozen):
    """As Detectron2 freezes a ResNet: neither weights nor the statistics of norms change."""
    backbone = make("resnet18", freeze_at=freeze_at).train()
    names = {name.removeprefix("model.") for name, _ in backbone.named_parameters()}
    assert learning(backbone) == {name for name in names if name.split(".")[0] not in frozen}
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))
    changed = {k for k, x in backbone.state_dict().items() if not torch.equal(x, before[k])}
    assert changed
    assert not any(name.split(".")[1] in frozen for name in changed)


@pytest.mark.parametrize("name", [n for k, n in FAMILIES.items() if k != "hrnet"])
def test_what_is_frozen_is_all_that_the_map_depends_on(name):
    frozen = {n for n, p in make(name, freeze_at=3).named_parameters() if not p.requires_grad}
    backbone = make(name).train()
    seen = backbone(torch.randn(2, 3, 64, 64))["res3"].square().sum()
    grads = torch.autograd.grad(seen, list(backbone.parameters()), allow_unused=True)
    names = (n for n, _ in backbone.named_parameters())
    assert frozen == {n for n, grad in zip(names, grads, strict=True) if grad is not None}


def test_frozen_norms():
    backbone = make(norm="FrozenBN").train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))["res5"].sum().backward()
    assert all(torch.equal(x, before[k]) for k, x in backbone.state_dict().items())
    assert "conv_stem.weight" in learning(backbone)
    assert not any(name.startswith("bn1") for name in learning(backbone))


def test_synchronized_norms():
    kinds = {type(m).__name__ for m in make(norm="SyncBN").modules()}
    assert {"SyncBatchNormAct"} <= kinds and not {"BatchNorm2d", "BatchNormAct2d"} & kinds


def test_what_does_not_decay():
    """Norms of torch's and of timm's classes, and layer scales; biases do, as everywhere here."""
    cfg = timm_cfg("convnext_zepto_rms", SOLVER__WEIGHT_DECAY=0.05)
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    names = {p: name for name, p in model.backbone.model.named_parameters()}
    decay = {names[p]: g["weight_decay"] for g in groups for p in g["params"] if p in names}
    rates = {g["lr"] for g in groups for p in g["params"] if p in names}
    assert [*rates] == pytest.approx([cfg.SOLVER.BASE_LR * 0.1])
    assert decay["stages.0.blocks.0.norm.weight"] == decay["stem.1.weight"] == 0
    assert decay["stages.0.blocks.0.gamma"] == 0
    assert decay["stages.0.blocks.0.conv_dw.bias"] == decay["stem.0.weight"] == 0.05


@pytest.mark.parametrize("name", [FAMILIES["efficientnet"], FAMILIES["convnext"]])
def test_activation_checkpointing(name):
    plain = make(name, drop_path_rate=0.2).train()
    checkpointed = copy.deepcopy(plain)
    set_grad_checkpointing(checkpointed)
    image = torch.randn(2, 3, 64, 64)
    outputs, kept = [], []
    for backbone in (plain, checkpointed):
        torch.manual_seed(1)
        kept.append(saved_bytes(lambda: outputs.append(list(backbone(image).values()))))  # noqa: B023
        sum(x.square().mean() for x in outputs[-1]).backward()
    assert kept[1] < kept[0] / 2
    torch.testing.assert_close(*outputs)
    for ours, expected in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    state = plain.state_dict()
    for key, value in checkpointed.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[key])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mobilenetv3_smal_050"}, "not know; the nearest are mobilenetv3_small_050"),
        ({"name": "resnet18.a1_in2k"}, "no weights; the nearest are resnet18.a1_in1k"),
        ({"out_features": ["res2", "res7"]}, "no map res7.*maps are res1, res2, res3, res4, res5"),
        ({"name": "vit_tiny_patch16_224"}, "no map res2 or res3 or res5.*ViTPyramid"),
        ({"name": "maxvit_pico_rw_256"}, "images of any size: for 64 x 96 pixels it fails"),
        ({"freeze_at": 6}, "FREEZE_AT is 6, but mobilenetv3_small_050 has no stage"),
        # Its maps are those of its last stage, side by side.
        ({"name": FAMILIES["hrnet"], "freeze_at": 2}, "FREEZE_AT is 2, but hrnet.* has no stage"),
        ({"norm": "GN"}, "MODEL.TIMM.NORM is 'GN', but must be one of BN"),
        ({"name": "convnext_atto_rms", "pretrained": True}, "no pretrained weights of"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)
