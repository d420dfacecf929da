"""What the command line refuses; what it writes is tested with `mask_former.checkpoint`."""

import json
import os

import pytest
import torch
import torchvision

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from tests.checkpoint.test_imagenet import Model, resnet_of_detectron2
from tests.checkpoint.transformers_models import (
    convert,
    make_theirs,
)
from tools import convert_weights


def test_weights_must_fit_their_configuration(tmp_path):
    folder, *_ = convert(make_theirs("swin, window 4"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["decoder_config"]["num_queries"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"query_embed.weight: \(7, 16\) in the file, \(8, 16\)"):
        convert_weights.main([str(folder), str(tmp_path / "new.pth")])
    assert not (tmp_path / "new.pth").exists()


def test_unknown_weights_are_refused(tmp_path):
    torch.save({"a.b": torch.ones(1)}, tmp_path / "unknown.pth")
    with pytest.raises(ValueError, match="unknown.pth.*not those of a MaskFormer.*begin with a.b"):
        convert_weights.main([str(tmp_path / "unknown.pth"), str(tmp_path / "new.pth")])
    weights = {**torchvision.models.resnet18().state_dict(), "conv1.0.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "deep_stem.pth")
    for load in (
        lambda: convert_weights.main([str(tmp_path / "deep_stem.pth"), str(tmp_path / "new.pth")]),
        lambda: MaskFormerCheckpointer(Model(resnet_of_detectron2(18))).load(
            str(tmp_path / "deep_stem.pth")
        ),
    ):
        with pytest.raises(ValueError, match="deep_stem.pth.*no counterpart of conv1.0.weight"):
            load()


def test_output_names(tmp_path):
    folder, *_ = convert(make_theirs("swin, window 4"), tmp_path)
    with pytest.raises(ValueError, match="new.onnx: weights are written to files named .pth"):
        convert_weights.main([str(folder), str(tmp_path / "new.onnx")])
    with pytest.raises(SystemExit):
        convert_weights.main(["--to", "hf", str(folder), str(tmp_path / "back")])
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        convert_weights.main([str(tmp_path), str(tmp_path / "new.pth")])
    half = {"sem_seg_head.a": torch.ones(1, dtype=torch.bfloat16)}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="half.pkl: NumPy has no such numbers"):
        convert_weights.main([str(tmp_path / "half.pth"), str(tmp_path / "half.pkl")])
    assert not os.path.exists(tmp_path / "half.pkl")
