"""Users' own checkpoints of PEM's repository load strictly: files made of its names and shapes."""

import json
from pathlib import Path

import pytest
import torch

from mask_former import model_zoo
from mask_former.checkpoint import MaskFormerCheckpointer
from mask_former.engine import build_model

FOLDER = Path(__file__).parents[1] / "reference/state_dict/pem"
CITYSCAPES = "cityscapes/panoptic-segmentation/pem_R50_bs32_90k"
STDC = "cityscapes/panoptic-segmentation/pem_STDC1_bs32_90k"
# STDC's layers are in its module a second time, under the strides of their maps.
STAGES = {2: (0, 1), 4: (1, 2), 8: (2, 4), 16: (4, 6), 32: (6, 8)}


def build(recipe):
    cfg = model_zoo.get_config(f"pem/{recipe}")
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def numbered(shapes):
    """A tensor for each name, all different."""
    return {
        name: torch.full(shape, i, dtype=torch.long if "num_batches" in name else torch.float)
        for i, (name, shape) in enumerate(shapes.items())
    }


def assert_loads(recipe, weights, in_file, path):
    torch.save({"model": in_file, "iteration": 89999}, path)
    model = build(recipe)
    MaskFormerCheckpointer(model, accept_backbone=False).load(str(path))
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_every_weight_of_a_resnet(tmp_path):
    file = FOLDER / f"{CITYSCAPES.replace('/', '__')}.json"
    weights = numbered(json.loads(file.read_text()))
    assert len(weights) == 623
    in_file = {**weights, "criterion.empty_weight": torch.ones(20)}
    assert_loads(CITYSCAPES, weights, in_file, tmp_path / "model_final.pth")


def test_every_weight_of_an_stdc_network(tmp_path):
    weights = numbered({name: w.shape for name, w in build(STDC).state_dict().items()})
    in_file = dict(weights)
    for stride, (first, last) in STAGES.items():
        for name, weight in weights.items():
            _, _, number, *rest = name.split(".", 3)
            if name.startswith("backbone.features.") and first <= int(number) < last:
                in_file[f"backbone.x{stride}.0.{number}.{rest[0]}"] = weight
    assert len(in_file) == len(weights) + sum("backbone" in name for name in weights)
    assert_loads(STDC, weights, in_file, tmp_path / "model_final.pth")
    del in_file["sem_seg_head.predictor.transformer_cross_attention_layers.3.alpha"]
    with pytest.raises(ValueError, match=r"layers\.3\.alpha: missing in the file"):
        assert_loads(STDC, weights, in_file, tmp_path / "less.pth")
