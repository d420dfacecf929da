"""Checkpoints: written whole, named as published, and refused where they do not fit."""

import json
import os
import pickle
import re
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.names import canonical_names
from mask_former.engine.config import load_config
from mask_former.errors import MissingFileError, NonFiniteError, UserError

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted((ROOT / "tests/reference/state_dict").glob("*.json"))


class Model(nn.Module):
    """A few weights under the published names."""

    def __init__(self, classes=3, width=4):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Module(), "res2": nn.ModuleList([nn.Module()])})
        self.backbone.stem.conv1 = nn.Conv2d(3, width, 1, bias=False)
        self.backbone.stem.conv1.norm = FrozenBatchNorm2d(width)
        self.backbone.res2[0].conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.sem_seg_head = nn.ModuleDict(
            {
                "pixel_decoder": nn.ModuleDict({"mask_features": nn.Conv2d(width, width, 1)}),
                "predictor": nn.ModuleDict(
                    {
                        "norm": nn.LayerNorm(width),
                        "query_embed": nn.Embedding(2, width),
                        "class_embed": nn.Linear(width, classes + 1),
                    }
                ),
            }
        )


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(path, content):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return str(path)


def assert_same(model, weights):
    assert model.state_dict().keys() == weights.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


# Saving


def test_what_is_saved_is_loaded_and_resumed_from(tmp_path):
    model, optimizer = Model(), torch.optim.SGD(Model().parameters(), lr=0.5)
    writer = MaskFormerCheckpointer(model, str(tmp_path), optimizer=optimizer)
    writer.save("model_0000001", iteration=1)
    writer.save("model_0000002", iteration=2)
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint",
        "model_0000001.pth",
        "model_0000002.pth",
    ]

    other, other_optimizer = Model(), torch.optim.SGD(Model().parameters(), lr=0.1)
    reader = MaskFormerCheckpointer(other, str(tmp_path), optimizer=other_optimizer)
    rest = reader.resume_or_load("", resume=True)
    assert rest["iteration"] == 2
    assert other_optimizer.param_groups[0]["lr"] == 0.5
    assert_same(other, state(model))


@pytest.mark.parametrize("content", [None, b"PK\x03\x04 a part of it"], ids=["gone", "broken"])
def test_other_checkpoints_are_named_when_the_last_one_cannot_be_read(tmp_path, content):
    checkpointer = MaskFormerCheckpointer(Model(), str(tmp_path))
    for name in ("model_0000999", "model_0001999", "model_final"):
        checkpointer.save(name)
    checkpointer.save_weights("model_best")
    last = tmp_path / "model_final.pth"
    last.unlink() if content is None else last.write_bytes(content)
    pointer = tmp_path / "last_checkpoint"
    with pytest.raises(UserError) as error:
        checkpointer.resume_or_load("", resume=True)
    assert str(last) in str(error.value)
    hint = (
        f"model_0000999.pth, model_0001999.pth. To resume from another one, write.* into {pointer}"
    )
    assert re.search(hint, str(error.value)) and "best" not in str(error.value)
    pointer.write_text("model_0001999.pth")
    checkpointer.resume_or_load("", resume=True)
    with pytest.raises(MissingFileError, match="other.pth") as error:
        checkpointer.resume_or_load(str(tmp_path / "other.pth"), resume=False)
    assert "Beside" not in str(error.value)


def test_weights_alone_are_not_resumed_from(tmp_path):
    writer = MaskFormerCheckpointer(Model(), str(tmp_path))
    writer.save("model_0000001")
    writer.save_weights("model_best", value=0.5)
    assert Path(writer.get_checkpoint_file()).name == "model_0000001.pth"
    assert MaskFormerCheckpointer(Model()).load(str(tmp_path / "model_best.pth"))["value"] == 0.5


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_an_interrupted_write_harms_nothing(tmp_path, monkeypatch, moment):
    model = Model()
    writer = MaskFormerCheckpointer(model, str(tmp_path))
    writer.save("model", iteration=1)
    good = state(model)

    def write_half(data, f):
        f.write(b"half")
        raise Killed

    def die(*args):
        raise Killed

    monkeypatch.setattr(moment, write_half if moment == "torch.save" else die)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias.add_(1)
    with pytest.raises(Killed):
        writer.save("model", iteration=2)
    monkeypatch.undo()

    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]
    other = Model()
    assert MaskFormerCheckpointer(other, str(tmp_path)).resume_or_load("")["iteration"] == 1
    assert_same(other, good)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path, value):
    model = Model()
    writer = MaskFormerCheckpointer(model, str(tmp_path))
    writer.save("model", iteration=1)
    good = state(model)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[0] = value
    message = r"model\.pth is not written: 1 of \d+ weights .*class_embed\.bias.*SOLVER.BASE_LR"
    with pytest.raises(NonFiniteError, match=message):
        writer.save("model", iteration=2)
    other = Model()
    assert MaskFormerCheckpointer(other, str(tmp_path)).resume_or_load("")["iteration"] == 1
    assert_same(other, good)


def test_a_write_that_was_killed_leaves_nothing_that_is_taken_for_a_checkpoint(tmp_path):
    model = Model()
    writer = MaskFormerCheckpointer(model, str(tmp_path))
    writer.save("model_0000001", iteration=1)
    # What `kill -9` leaves, which runs no clean-up; then the next run writes the same iteration.
    (tmp_path / "model_0000002.pth.part").write_bytes(b"half")
    (tmp_path / "last_checkpoint.part").write_bytes(b"model_00")
    assert MaskFormerCheckpointer(Model(), str(tmp_path)).resume_or_load("")["iteration"] == 1
    assert len(writer.get_all_checkpoint_files()) == 1
    writer.save("model_0000002", iteration=2)
    assert not list(tmp_path.glob("*.part"))
    assert MaskFormerCheckpointer(Model(), str(tmp_path)).resume_or_load("")["iteration"] == 2


# Names


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_published_names_of_today_and_of_the_older_layout(file):
    names = {name: torch.zeros(()) for name in json.loads(file.read_text())}
    assert list(canonical_names(names)) == list(names)
    older = {name.replace(".pixel_decoder.", "."): tensor for name, tensor in names.items()}
    assert older.keys() != names.keys()
    assert list(canonical_names(older)) == list(names)


def test_names_that_only_training_code_has():
    weights = {
        "module.sem_seg_head.predictor.a": torch.ones(1),
        "criterion.empty_weight": torch.ones(1),
    }
    assert list(canonical_names(weights)) == ["sem_seg_head.predictor.a"]


def test_a_published_file_in_the_older_layout_loads(tmp_path):
    weights = state(Model())
    older = {k.replace(".pixel_decoder.", "."): v.numpy() for k, v in weights.items()}
    older["criterion.empty_weight"] = torch.ones(4).numpy()
    path = save(tmp_path / "model_final.pkl", {"model": older, "__author__": "MaskFormer"})
    model = Model()
    MaskFormerCheckpointer(model, accept_backbone=False).load(path)
    assert_same(model, weights)


RECIPES = {
    "ade20k-150__maskformer_R50_bs16_160k": "ade20k-150/maskformer_R50_bs16_160k.yaml",
    "coco-panoptic__maskformer_panoptic_R50_bs64_554k": (
        "coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml"
    ),
}


@pytest.mark.parametrize("published", RECIPES)
def test_the_published_models_names_and_shapes_load_strictly(published, tmp_path):
    shapes = json.loads((ROOT / f"tests/reference/state_dict/{published}.json").read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    weights["criterion.empty_weight"] = torch.ones(1)
    cfg = load_config(str(ROOT / "configs" / RECIPES[published]), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    MaskFormerCheckpointer(model).load(save(tmp_path / "model.pth", weights))
    assert all(not tensor.any() for tensor in model.state_dict().values())


# Files that are not there, or must not be opened


def load_error(path, model=None, **kwargs):
    with pytest.raises(ValueError) as caught:
        MaskFormerCheckpointer(model or Model(), **kwargs).load(path)
    assert str(caught.value).startswith(path)
    return str(caught.value)


def test_a_missing_file_is_named_with_its_key(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/no.pth.*MODEL.WEIGHTS"):
        MaskFormerCheckpointer(Model()).load(f"{tmp_path}/no.pth")
    checkpointer = MaskFormerCheckpointer(Model(), str(tmp_path))
    checkpointer.tag_last_checkpoint("model_0000009.pth")
    with pytest.raises(FileNotFoundError, match="model_0000009.pth.*last_checkpoint"):
        checkpointer.resume_or_load("", resume=True)


def test_an_address_that_cannot_be_reached_is_named(monkeypatch):
    checkpointer = MaskFormerCheckpointer(Model())

    def offline(path):
        raise URLError("no route")

    name = "mask_former.checkpoint.checkpointer.PathManager"
    monkeypatch.setattr(name, Mock(get_local_path=offline))
    with pytest.raises(ConnectionError, match="MODEL.WEIGHTS http://a/b.pth .*no route"):
        checkpointer.load("http://a/b.pth")


class MakeFolder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_nothing_in_a_file_is_run(tmp_path, suffix):
    trace = tmp_path / "trace"
    weights = {**state(Model()), "extra": MakeFolder(str(trace))}
    text = load_error(save(tmp_path / f"evil{suffix}", {"model": weights}))
    assert "nothing in a weights file is run" in text
    assert not trace.exists()
