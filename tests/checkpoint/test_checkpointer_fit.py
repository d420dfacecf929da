"""What fits a model is loaded; what does not is named, weight by weight."""

import pytest
import torch
from torch import nn

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from tests.checkpoint.test_checkpointer import Model, assert_same, load_error, save, state


def test_another_number_of_classes_is_said(tmp_path):
    text = load_error(save(tmp_path / "a.pth", state(Model(classes=7))))
    assert "class_embed.weight: (8, 4) in the file, (4, 4) in the model" in text
    assert "trained for 7 classes; MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3" in text


def test_another_number_of_queries_is_not_taken_for_another_number_of_classes(tmp_path):
    """Also where there happen to be as many queries as classes."""
    model, weights = Model(), state(Model())
    queries = "sem_seg_head.predictor.query_embed"
    model.sem_seg_head.predictor.query_embed = nn.Embedding(3, 4)
    weights[f"{queries}.weight"] = torch.zeros(9, 4)
    text = load_error(save(tmp_path / "a.pth", weights), model)
    assert f"{queries}.weight: (9, 4) in the file, (3, 4) in the model" in text
    assert "NUM_CLASSES" not in text


def test_another_model_is_shown_by_its_first_differences(tmp_path):
    weights = state(Model(width=5))
    text = load_error(save(tmp_path / "a.pth", weights))
    assert "backbone.stem.conv1.weight: (5, 3, 1, 1) in the file, (4, 3, 1, 1)" in text
    assert "NUM_CLASSES" not in text
    # All but class_embed.bias depend on the width: 12 weights.
    assert text.count("\n  ") == 11 and text.endswith("... and 2 more")


def test_missing_and_foreign_weights_are_told_apart(tmp_path):
    weights = state(Model())
    weights["sem_seg_head.predictor.extra"] = torch.zeros(1)
    del weights["sem_seg_head.predictor.norm.bias"]
    text = load_error(save(tmp_path / "a.pth", weights))
    assert "norm.bias: missing in the file" in text
    assert "predictor.extra: not in the model" in text


def test_a_checkpointer_is_usable_after_an_error(tmp_path):
    checkpointer = MaskFormerCheckpointer(Model())
    good, bad = Model(), Model(classes=7)
    with pytest.raises(ValueError):
        checkpointer.load(save(tmp_path / "bad.pth", state(bad)))
    checkpointer.load(save(tmp_path / "good.pth", state(good)))
    assert_same(checkpointer.model, state(good))


def test_a_model_without_our_parts_must_fit_too(tmp_path):
    path = save(tmp_path / "a.pth", nn.Linear(2, 2).state_dict())
    MaskFormerCheckpointer(nn.Linear(2, 2)).load(path)
    assert "weight: (2, 2) in the file, (2, 3)" in load_error(path, nn.Linear(3, 2))


# Backbones


def backbone_weights(prefix=""):
    """A backbone's, in the model zoo's way: without its prefix, with its classifier."""
    names = [name for name in Model().state_dict() if name.startswith("backbone.")]
    weights = {
        prefix + name.removeprefix("backbone."): torch.randn(Model().state_dict()[name].shape)
        for name in names
    }
    # As Swin's last norm; the head's, of the same shape, is not meant.
    return {**weights, "stem.fc.weight": torch.randn(9), "norm.weight": torch.randn(4)}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_backbone_leaves_the_head_alone(tmp_path, suffix, prefix):
    weights = backbone_weights(prefix)
    arrays = {k: v.numpy() if suffix == ".pkl" else v for k, v in weights.items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path = save(tmp_path / f"R-50{suffix}", content)
    model = Model()
    head = {k: v for k, v in state(model).items() if k.startswith("sem_seg_head.")}
    MaskFormerCheckpointer(model).load(path)
    prefix_in_file = "" if prefix else "backbone."
    loaded = {prefix_in_file + k: v for k, v in weights.items()}
    backbone = {k: loaded[k] for k in model.state_dict() if k.startswith("backbone.")}
    assert_same(model, {**backbone, **head})


def test_a_backbone_of_caffe2(tmp_path):
    weights = {
        "conv1_w": torch.randn(4, 3, 1, 1),
        "res_conv1_bn_s": torch.randn(4),
        "res_conv1_bn_b": torch.randn(4),
        "res2_0_branch2a_w": torch.randn(4, 4, 1, 1),
        "fc1000_b": torch.randn(9),
    }
    path = save(tmp_path / "R-50.pkl", {k: v.numpy() for k, v in weights.items()})
    model = Model()
    MaskFormerCheckpointer(model).load(path)
    assert torch.equal(model.backbone.stem.conv1.weight, weights["conv1_w"])
    assert torch.equal(model.backbone.stem.conv1.norm.weight, weights["res_conv1_bn_s"])
    assert torch.equal(model.backbone.res2[0].conv1.weight, weights["res2_0_branch2a_w"])


def test_another_backbone_is_refused(tmp_path):
    text = load_error(save(tmp_path / "swin.pth", {"patch_embed.proj.weight": torch.zeros(1)}))
    assert "does not fit the backbone: of its 6 weights 0 were found" in text
    assert "stem.conv1.weight: missing in the file" in text
    wide = {k: v for k, v in state(Model(width=5)).items() if k.startswith("backbone.")}
    assert "of its 6 weights 0 were found" in load_error(save(tmp_path / "wide.pth", wide))


def test_half_a_backbone_is_enough(tmp_path):
    weights = {
        "stem.conv1.weight": torch.ones(4, 3, 1, 1),
        "stem.conv1.norm.weight": torch.ones(4),
        "stem.conv1.norm.bias": torch.ones(4),
    }
    MaskFormerCheckpointer(Model()).load(save(tmp_path / "half.pth", weights))
    del weights["stem.conv1.norm.bias"]
    assert "of its 6 weights 2 were found" in load_error(save(tmp_path / "less.pth", weights))


def deep(blocks, size=2, window=2):
    """Blocks with two norms, and one of the output that no classifier has."""
    model = Model()
    model.backbone = nn.Module()
    model.backbone.blocks = nn.ModuleList(
        nn.ModuleDict({"norm1": nn.LayerNorm(size), "norm2": nn.LayerNorm(size)})
        for _ in range(blocks)
    )
    model.backbone.positions = nn.Parameter(torch.zeros(window))
    model.backbone.norm1 = nn.LayerNorm(size)
    return model


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_of_another_depth_or_window(tmp_path, prefix):
    weights = {
        prefix + name.removeprefix("backbone."): torch.ones_like(weight)
        for name, weight in state(deep(3)).items()
        if name.startswith("backbone.") and not name.startswith("backbone.norm1.")
    }
    path = save(tmp_path / "3.pth", weights)
    model = deep(3)
    MaskFormerCheckpointer(model).load(path)
    assert model.backbone.blocks[2].norm2.bias.eq(1).all()
    text = load_error(path, deep(4))  # more than half of it is in the file
    assert "blocks.3.norm1.weight: missing in the file" in text
    assert "backbone.norm1" not in text
    text = load_error(path, deep(2))
    assert "blocks.2.norm1.weight: not in the model" in text
    text = load_error(path, deep(3, window=5))
    assert "of its 15 weights 12 were found.\n  backbone.positions" in text


def test_names_whose_ends_fit_several_weights(tmp_path):
    weights = {"norm1.weight": torch.ones(2), "norm1.bias": torch.ones(2)}
    assert "does not fit the backbone" in load_error(save(tmp_path / "a.pth", weights), deep(1))


def test_a_head_of_others_is_loaded_by_its_own_names(tmp_path):
    model = Model()
    model.sem_seg_head = nn.Sequential(nn.Linear(2, 2))
    path = save(tmp_path / "a.pth", state(model))
    MaskFormerCheckpointer(model).load(path)


def test_a_backbone_is_no_trained_model(tmp_path):
    path = save(tmp_path / "R-50.pth", backbone_weights())
    assert "holds no head" in load_error(path, accept_backbone=False)
