"""STDC networks: published sizes, a block by hand, names, freezing, training, loading, errors."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from mask_former.backbone import D2STDCnet
from mask_former.backbone.checkpointing import set_grad_checkpointing
from mask_former.backbone.stdc import STDCBlock
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.engine import get_cfg
from tests.backbone.training import MASK2FORMER, assert_trains
from tests.engine import tiny
from tools import convert_weights


class Model(nn.Module):
    """A backbone under a head."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = nn.Linear(1, 1)


def random_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    "layers, million", [((2, 2, 2), 5.318), ((4, 5, 3), 9.349)], ids=["STDC1", "STDC2"]
)
def test_sizes(layers, million):
    """The parameters with which PEM has the published 17.0 and 21.0 million."""
    torch.manual_seed(0)
    model = D2STDCnet(layers=layers).eval()
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(million, abs=5e-4)
    assert model.size_divisibility == 32
    maps = model(torch.randn(1, 3, 61, 99))
    shapes = {name: (s.channels, s.stride) for name, s in model.output_shape().items()}
    assert shapes == {"res2": (64, 4), "res3": (256, 8), "res4": (512, 16), "res5": (1024, 32)}
    for name, (channels, stride) in shapes.items():
        assert maps[name].shape == (1, channels, -(-61 // stride), -(-99 // stride))


def test_a_block_of_stride_2_by_hand():
    torch.manual_seed(0)
    block = random_statistics(STDCBlock(6, 16, 4, "BN", stride=2)).eval()
    x = torch.randn(2, 6, 9, 8)

    def layer(i, x):
        conv, norm = block.conv_list[i].conv, block.conv_list[i].bn
        return F.relu(norm(F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2)))

    first = layer(0, x)
    conv, norm = block.avd_layer
    second = layer(1, norm(F.conv2d(first, conv.weight, stride=2, padding=1, groups=8)))
    third = layer(2, second)
    pooled = F.pad(first, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).mean((-1, -2))
    expected = torch.cat([pooled, second, third, layer(3, third)], 1)
    assert expected.shape == (2, 8 + 4 + 2 + 2, 5, 4)
    torch.testing.assert_close(block(x), expected)
    assert [conv.conv.weight.shape[-1] for conv in block.conv_list] == [1, 3, 3, 3]


def test_names():
    names = set(D2STDCnet().state_dict())
    assert {
        "features.0.conv.weight",
        "features.1.bn.running_var",
        "features.2.conv_list.3.bn.weight",
        "features.2.avd_layer.0.weight",
        "features.6.avd_layer.1.num_batches_tracked",
    } <= names
    assert not [name for name in names if not name.startswith("features.")]


def test_layers_of_coarser_maps_are_not_made():
    model = D2STDCnet(out_features=["res2", "res3"])
    assert len(model.features) == 4 and list(model(torch.randn(1, 3, 64, 64))) == ["res2", "res3"]


@pytest.mark.parametrize("freeze_at, layers", [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 8)])
def test_frozen_stages_neither_learn_nor_gather_statistics(freeze_at, layers):
    model = D2STDCnet(freeze_at=freeze_at).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    for i, layer in enumerate(model.features):
        frozen = i < layers
        assert all(p.requires_grad != frozen for p in layer.parameters())
        name = f"features.{i}.{'' if i < 2 else 'conv_list.0.'}bn.running_mean"
        assert torch.equal(before[name], model.state_dict()[name]) == frozen


def test_activation_checkpointing_changes_nothing():
    torch.manual_seed(0)
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = D2STDCnet().train()
        if checkpointing:
            set_grad_checkpointing(model)
        maps = model(torch.randn(2, 3, 64, 64))
        sum(x.square().mean() for x in maps.values()).backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_mask2former_trains_on_it(tmp_path):
    options = {"MODEL__BACKBONE__NAME": "D2STDCnet", "MODEL__BACKBONE__FREEZE_AT": 0}
    assert_trains(tiny.tiny_cfg(tmp_path, **MASK2FORMER, **options))


def classifier_file(model, path):
    """As its authors save it: every layer twice, and what classifies."""
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    stages = {2: (0, 1), 4: (1, 2), 8: (2, 4), 16: (4, 6), 32: (6, 8)}
    for stride, (first, last) in stages.items():
        for i in range(first, last):
            prefix = f"features.{i}."
            weights |= {
                f"x{stride}.0.{name.removeprefix('features.')}": x
                for name, x in model.state_dict().items()
                if name.startswith(prefix)
            }
    for name in ("conv_last.conv", "conv_last.bn", "fc", "bn", "linear"):
        weights[f"{name}.weight"] = torch.randn(7)
    torch.save({"epoch": 3, "state_dict": weights}, path)


def test_the_authors_file_is_a_backbone(tmp_path):
    torch.manual_seed(0)
    theirs = random_statistics(D2STDCnet())
    classifier_file(theirs, tmp_path / "STDCNet813M_73.91.tar")
    convert_weights.main([str(tmp_path / "STDCNet813M_73.91.tar"), str(tmp_path / "STDC1.pkl")])
    for file in ("STDCNet813M_73.91.tar", "STDC1.pkl"):
        model = Model(D2STDCnet())
        MaskFormerCheckpointer(model).load(str(tmp_path / file))
        for name, x in theirs.state_dict().items():
            if "num_batches" not in name:
                assert torch.equal(x, model.backbone.state_dict()[name]), name
    with pytest.raises(ValueError, match="does not fit the backbone: of its .* were found"):
        MaskFormerCheckpointer(Model(D2STDCnet(layers=[4, 5, 3]))).load(str(tmp_path / "STDC1.pkl"))


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("LAYERS", [2, 2], r"LAYERS is \[2, 2\]; it must be 3 numbers"),
        ("LAYERS", [2, 0, 2], r"LAYERS is \[2, 0, 2\]"),
        ("BLOCK_NUM", 1, r"BLOCK_NUM is 1; it must be in 2..6"),
        ("BLOCK_TIPE", "add", "BLOCK_TIPE is 'add'.*must be 'cat'"),
        ("USE_CONV_LAST", True, "USE_CONV_LAST is True.*set it to False"),
        ("NORM", "LN", "NORM is 'LN', but must be one of BN"),
        ("OUT_FEATURES", ["res6"], r"OUT_FEATURES is \['res6'\].*some of res2"),
    ],
)
def test_what_cannot_be_built_is_said(key, value, text):
    cfg = get_cfg()
    cfg.MODEL.STDC[key] = value
    with pytest.raises(ValueError, match=text):
        D2STDCnet(cfg, ShapeSpec(channels=3))
