"""Published weights under all names that they have had, loaded strictly."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from mask_former import model_zoo
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.names import canonical_names

FOLDER = Path(__file__).parents[1] / "reference/state_dict/mask2former"
MASK2FORMER = {f.stem: list(json.loads(f.read_text())) for f in sorted(FOLDER.glob("*.json"))}
QUERIES = "sem_seg_head.predictor.query_feat.weight"


def numbered(names):
    """A small tensor for each name, all different."""
    return {name: torch.tensor([float(i), -i]) for i, name in enumerate(names)}


class Names(nn.Module):
    """A model that is nothing but names of weights."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(last, torch.zeros(2))


def without_pixel_decoder(weights):
    return {name.replace(".pixel_decoder.", "."): w for name, w in weights.items()}


def with_static_query(weights):
    return {name.replace(".query_feat.", ".static_query."): w for name, w in weights.items()}


def with_class_weights(weights):
    return {**weights, "criterion.empty_weight": torch.ones(3)}


def within_ddp(weights):
    return {f"module.{name}": w for name, w in weights.items()}


VARIANTS = {
    "today's": [],
    "before the pixel decoder was a module": [without_pixel_decoder],
    "before query_feat": [with_static_query],
    "the published .pkl": [with_static_query, with_class_weights],
    "the oldest": [without_pixel_decoder, with_static_query, with_class_weights],
    "saved within DistributedDataParallel": [with_class_weights, within_ddp],
}


@pytest.mark.parametrize("recipe", MASK2FORMER)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_todays_names(recipe, variant):
    weights = changed = numbered(MASK2FORMER[recipe])
    assert QUERIES in weights
    for change in VARIANTS[variant]:
        changed = change(changed)
    found = canonical_names(changed)
    assert found == weights
    assert canonical_names(found) == weights  # a prefix is not inserted twice


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_loads_strictly(tmp_path, variant, suffix):
    names = [name for name in MASK2FORMER[min(MASK2FORMER)] if "head" in name or "stem" in name]
    weights = changed = numbered(names)
    for change in VARIANTS[variant]:
        changed = change(changed)
    path = tmp_path / f"model_final{suffix}"
    if suffix == ".pkl":
        arrays = {name: w.numpy() for name, w in changed.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party"}))
    else:  # a user's own training
        torch.save({"model": changed, "optimizer": {"state": {}}, "iteration": 99}, path)
    model = Names(names)
    MaskFormerCheckpointer(model, accept_backbone=False).load(str(path))
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())

    del changed[next(name for name in changed if "level_embed" in name)]
    torch.save({"model": changed}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match="level_embed.*: missing in the file"):
        MaskFormerCheckpointer(Names(names)).load(str(tmp_path / "less.pth"))


def test_a_published_model_loads_strictly(tmp_path):
    """Names and shapes of a whole model, as in its published file."""
    recipe = "coco__panoptic-segmentation__swin__maskformer2_swin_tiny_bs16_50ep"
    shapes = json.loads((FOLDER / f"{recipe}.json").read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    path = tmp_path / "model_final.pth"
    torch.save({"model": with_static_query(with_class_weights(weights))}, path)
    cfg = model_zoo.get_config(f"mask2former/{recipe.replace('__', '/')}")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    MaskFormerCheckpointer(model, accept_backbone=False).load(str(path))
    assert all(not tensor.any() for tensor in model.state_dict().values())
