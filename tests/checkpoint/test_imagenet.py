"""Backbones of ImageNet classifiers against torchvision and timm themselves."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import nn

from mask_former.backbone.swin import D2SwinTransformer
from mask_former.checkpoint import find_source
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.engine import get_cfg
from tests.checkpoint.transformers_models import (
    make_theirs,
)
from tools import convert_weights


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = nn.Linear(1, 1)


def resnet_of_detectron2(depth, stride_in_1x1=False):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = stride_in_1x1
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def randomize_norms(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.7)
            module.bias.data.normal_(std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(3)
    return model.eval()


def stages_of_resnet(model, x):
    outputs = {}
    layers = [model.conv1, model.bn1, F.relu, model.maxpool]
    for layer in layers:
        x = layer(x)
    for i in range(1, 5):
        outputs[f"res{i + 1}"] = x = getattr(model, f"layer{i}")(x)
    return outputs


def assert_same_features(features, expected):
    assert features.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(features[name], expected[name], atol=1e-5, rtol=1e-4)


def test_a_resnet_that_strides_elsewhere(tmp_path):
    """The weights fit, and would compute something else."""
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "theirs.pth")
    checkpointer = MaskFormerCheckpointer(Model(resnet_of_detectron2(50, stride_in_1x1=True)))
    with pytest.raises(ValueError, match="theirs.pth.*STRIDE_IN_1X1 to False"):
        checkpointer.load(str(tmp_path / "theirs.pth"))


@torch.no_grad()
@pytest.mark.parametrize(
    "make, depth",
    [
        (torchvision.models.resnet18, 18),
        (torchvision.models.resnet50, 50),
        (lambda: timm.create_model("resnet18"), 18),
    ],
    ids=["torchvision 18", "torchvision 50", "timm 18"],
)
def test_resnets(tmp_path, make, depth, capsys):
    torch.manual_seed(0)
    theirs = randomize_norms(make())
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    convert_weights.main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pkl")])
    report = capsys.readouterr().out
    assert "Weights of 'torchvision'" in report and "fc.weight (1)" in report
    x = torch.rand(1, 3, 64, 64)
    expected = stages_of_resnet(theirs, x)
    for file in ("theirs.pth", "ours.pkl"):
        model = Model(resnet_of_detectron2(depth))
        MaskFormerCheckpointer(model).load(str(tmp_path / file))
        assert_same_features(model.eval().backbone(x), expected)


SWIN = {"embed_dim": 12, "depths": (1, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 2}


def make_timm_swin():
    torch.manual_seed(0)
    # A size at which timm shifts the same windows as Swin's authors.
    model = SwinTransformer(img_size=128, num_classes=5, **SWIN).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias_table"):
            parameter.data.uniform_(0.5, 1.5)
    return model


def official_layout(timm_weights):
    """Names of Swin's own files."""
    weights = {}
    for name, tensor in timm_weights.items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        weights[".".join(parts).replace("head.fc", "head")] = tensor
    for i in range(4):
        for j in range(SWIN["depths"][i]):
            weights[f"layers.{i}.blocks.{j}.attn.relative_position_index"] = (
                D2SwinTransformer(
                    out_features=["res2"], **{**SWIN, "depths": [1], "num_heads": [1]}
                )
                .layers[0]
                .blocks[0]
                .attn.relative_position_index
            )
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 4, 4)
    return weights


@torch.no_grad()
@pytest.mark.parametrize("layout", ["timm", "swin"])
def test_swin(tmp_path, layout, capsys):
    theirs = make_timm_swin()
    weights = dict(theirs.state_dict())
    if layout == "swin":
        weights = official_layout(weights)
        # timm itself reads its authors' files to the same model.
        read_back = checkpoint_filter_fn({"model": dict(weights)}, theirs)
        assert all(torch.equal(read_back[k], v) for k, v in theirs.state_dict().items())
    torch.save({"model": weights}, tmp_path / "theirs.pth")
    convert_weights.main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")])
    report = capsys.readouterr().out
    assert f"Weights of '{layout}'" in report and "norm.weight (1)" in report

    x = torch.rand(1, 3, 128, 128)
    stages = theirs.forward_intermediates(x, intermediates_only=True)
    # Ours normalises the output of every stage, by norms that no classifier has.
    expected = {
        f"res{i + 2}": F.layer_norm(y.movedim(1, -1), y.shape[1:2]).movedim(-1, 1)
        for i, y in enumerate(stages)
    }
    for file in ("theirs.pth", "ours.safetensors"):
        model = Model(D2SwinTransformer(out_features=list(expected), **SWIN)).eval()
        MaskFormerCheckpointer(model).load(str(tmp_path / file))
        assert_same_features(model.backbone(x), expected)


def test_sources_are_told_apart():
    swin_weights = make_timm_swin().state_dict()
    assert find_source(swin_weights) == "timm"
    assert find_source(official_layout(swin_weights)) == "swin"
    assert find_source(torchvision.models.resnet18().state_dict()) == "torchvision"
    assert find_source(make_theirs("swin, window 4").state_dict()) == "hf"
    assert find_source(["backbone.res2.0.conv1.weight"]) is None


def test_the_backbone_of_another_code_base_keeps_its_names(tmp_path):
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = Model(torchvision.models.resnet18())
    MaskFormerCheckpointer(model).load(str(tmp_path / "theirs.pth"))
    assert torch.equal(model.backbone.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)
