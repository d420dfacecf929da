"""The keys that say how a model runs act on every meta-architecture; weights keep their names."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from mask_former.backbone.frozen_norm import FrozenNormConv2d
from mask_former.engine.model import build_model
from mask_former.errors import UserError
from tests.engine.tiny import NUM_CLASSES, tiny_cfg

HEADS = {"MaskFormer": "MaskFormerHead", "SemanticSegmentor": "PerPixelBaselineHead"}
SWIN = {
    "MODEL__BACKBONE__NAME": "D2SwinTransformer",
    "MODEL__SWIN__EMBED_DIM": 8,
    "MODEL__SWIN__DEPTHS": [2, 2, 2, 2],
    "MODEL__SWIN__NUM_HEADS": [1, 1, 2, 2],
    "MODEL__SWIN__WINDOW_SIZE": 4,
    "MODEL__SWIN__DROP_PATH_RATE": 0.0,
}


@pytest.fixture(params=HEADS)
def make(request):
    """Builds a tiny model of one of the meta-architectures, in training mode."""

    def make(**opts):
        torch.manual_seed(0)
        names = {"META_ARCHITECTURE": request.param, "SEM_SEG_HEAD__NAME": HEADS[request.param]}
        opts |= {f"MODEL__{key}": name for key, name in names.items()}
        opts["MODEL__MASK_FORMER__DROPOUT"] = 0.0
        return build_model(tiny_cfg("unused", **opts)).train()

    return make


def total_loss(model):
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:] = True, True
    classes = torch.tensor([1, NUM_CLASSES - 1])
    image = torch.arange(3 * 64 * 64).view(3, 64, 64) % 256
    instances = Instances((64, 64), gt_classes=classes, gt_masks=BitMasks(masks))
    labels = (classes[:, None, None] * masks).sum(0)
    return sum(model([{"image": image, "instances": instances, "sem_seg": labels}]).values())


def test_compile(make, monkeypatch):
    """What is compiled is what runs: backbone and head, each as a whole."""
    compiled, ran = [], []

    def record(call, **_):
        if not hasattr(call, "__self__"):  # the losses
            return call
        compiled.append(call.__self__)

        def run(*inputs):
            ran.append(call.__self__)
            return call(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", record)
    image = {"image": torch.arange(3 * 64 * 64).view(3, 64, 64) % 256}
    plain = make().eval()
    expected = plain([image])[0]["sem_seg"]
    assert compiled == []
    model = make(MODEL__COMPILE=True).eval()
    assert torch.equal(model([image])[0]["sem_seg"], expected)
    assert compiled == ran == [model.backbone, model.sem_seg_head]
    assert list(model.state_dict()) == list(plain.state_dict())


def saved_bytes(loss_of, model):
    """What autograd keeps for the gradients of a loss."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = loss_of(model)
    return loss.item(), sum(kept.values())


def test_activation_checkpointing(make):
    plain, model = make(**SWIN), make(**SWIN, MODEL__BACKBONE__ACTIVATION_CHECKPOINTING=True)
    (expected, much), (loss, little) = (
        saved_bytes(total_loss, plain),
        saved_bytes(total_loss, model),
    )
    assert loss == expected
    assert little < 0.8 * much
    assert list(model.state_dict()) == list(plain.state_dict())


def test_activation_checkpointing_that_a_backbone_lacks(make):
    with pytest.raises(UserError, match="ACTIVATION_CHECKPOINTING.*not TinyBackbone"):
        make(MODEL__BACKBONE__ACTIVATION_CHECKPOINTING=True)


def test_frozen_norms_are_folded(make):
    model = make(
        MODEL__BACKBONE__NAME="build_resnet_backbone",
        MODEL__RESNETS__DEPTH=18,
        MODEL__RESNETS__RES2_OUT_CHANNELS=64,
        MODEL__RESNETS__OUT_FEATURES=["res2", "res3", "res4", "res5"],
    )
    names = [name for name, m in model.named_modules() if isinstance(m, FrozenNormConv2d)]
    assert len(names) == 20  # of 1 + 16 + 3 convolutions
    assert "backbone.stem.conv1.norm.running_var" in model.state_dict()


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("MODEL__META_ARCHITECTURE", "MaskFormer"),
        ("MODEL__BACKBONE__NAME", "TinyBackbone"),
        ("MODEL__SEM_SEG_HEAD__NAME", "MaskFormerHead"),
    ],
)
def test_a_component_that_is_not_registered(key, near):
    cfg = tiny_cfg("unused", **{key: f"{near}s"})
    with pytest.raises(UserError, match=f"{key.replace('__', '.')} is '{near}s'.* {near}"):
        build_model(cfg)


@pytest.mark.parametrize(
    ("architecture", "head", "remedy"),
    [
        ("MaskFormer", "EoMTHead", "is for EoMT: set .* the other to MaskFormerHead"),
        ("SemanticSegmentor", "MaskFormerHead", "is for MaskFormer: .* or SegmenterHead"),
        ("EoMT", "PerPixelBaselineHead", "is for SemanticSegmentor: .* EoMTHead"),
    ],
)
def test_the_head_of_another_meta_architecture(architecture, head, remedy):
    names = {"MODEL__META_ARCHITECTURE": architecture, "MODEL__SEM_SEG_HEAD__NAME": head}
    with pytest.raises(UserError, match=f"is {architecture}, but .*NAME {head} {remedy}"):
        build_model(tiny_cfg("unused", **names))


def test_channels_that_make_no_groups():
    with pytest.raises(UserError, match="CONVS_DIM is 33, .* a multiple of 32"):
        build_model(tiny_cfg("unused", MODEL__SEM_SEG_HEAD__CONVS_DIM=33))
