"""Rates, weight decay and schedules of recipes, against the published ones."""

import json
import re
from pathlib import Path

import pytest
from detectron2.modeling import build_model
from torch import nn

from mask_former.engine.config import load_config
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
from tools.analyze_model import build_without_weights

ROOT = Path(__file__).parents[2]
REFERENCE = json.loads((ROOT / "tests/reference/optimizer_ade20k150_R50.json").read_text())


@pytest.fixture(scope="module")
def recipe():
    """The published recipe's cfg, its model and its optimizer."""
    cfg = load_config(str(ROOT / "configs" / REFERENCE["config"]), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    return cfg, model, build_optimizer(cfg, model)


def test_every_parameter_learns_and_decays_as_published(recipe):
    _, model, optimizer = recipe
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: [group["lr"], group["weight_decay"]]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {k: pytest.approx(v, rel=1e-12) for k, v in REFERENCE["param_groups"].items()}


def test_the_groups_are_few(recipe):
    assert len(recipe[2].param_groups) == 3


def test_the_poly_schedule_is_the_published_one(recipe):
    cfg, _, optimizer = recipe
    head = next(i for i, g in enumerate(optimizer.param_groups) if g["lr"] == cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()  # PyTorch warns of a schedule that goes ahead of its optimizer.
    for iteration, expected in REFERENCE["lr_of_last_group_at_iteration"]:
        if iteration > 0:
            scheduler.last_epoch = iteration - 1
            scheduler.step()
        assert optimizer.param_groups[head]["lr"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", ["tiny_bs16_160k", "large_IN21k_384_bs16_160k_res640"])
def test_swin_learns_as_published(size):
    """Backbone and head at one rate, 6e-5, which begins at a millionth of it; by the names of the
    parameters, norms and embeddings do not decay, and all else by 0.01."""
    cfg = load_config(str(ROOT / f"configs/ade20k-150/swin/maskformer_swin_{size}.yaml"))
    model = build_without_weights(cfg)
    optimizer = build_optimizer(cfg, model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["initial_lr"] if "initial_lr" in group else group["lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == set(names.values()) and set(found.values()) == {6e-5}
    kept = {
        names[parameter]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"] == 0
    }
    without = r"norm|relative_position_bias_table|query_embed"
    assert kept == {name for name in found if re.search(without, name)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0, 0.01}
    scheduler = build_lr_scheduler(cfg, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(6e-11, rel=1e-9)
    optimizer.step()
    for iteration, expected in ((750, 0.5 * 6e-5), (80_000, 6e-5 * 0.5**0.9)):
        scheduler.last_epoch = iteration - 1
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-2)


# What does not decay, the rate, and a bare parameter, which decays.
MASK2FORMERS = (
    r"norm|pixel_decoder\.input_proj\.\d\.1\.|relative_position_bias_table",
    1e-4,
    "pixel_decoder.transformer.level_embed",
)
PEMS = (
    r"norm|bn\.|csm\.\d\.mlp\.0\.mlp\.1\.|query_proj\.0\.",
    7e-4,
    "predictor.transformer_cross_attention_layers.0.alpha",
)


@pytest.mark.parametrize(
    ("family", "recipe", "kept", "rate", "decays"),
    [
        ("mask2former", "maskformer2_R50_bs16", *MASK2FORMERS),
        ("mask2former", "swin/maskformer2_swin_tiny_bs16", *MASK2FORMERS),
        ("pem", "pem_R50_bs32", *PEMS),
    ],
)
def test_parameters_learn_and_decay_as_published(family, recipe, kept, rate, decays):
    """By their names: what is a norm or an embedding does not decay. The pixel decoder's level
    embedding is a bare parameter and does, the predictor's is an embedding and does not; PEM's
    alpha is bare, too."""
    folder = ROOT / "configs" / family / "cityscapes/semantic-segmentation"
    cfg = load_config(str(folder / f"{recipe}_90k.yaml"))
    model = build_without_weights(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    kept = re.compile(kept + r"|predictor\.(query_feat|query_embed|level_embed)\.")
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    assert found == {
        name: (
            pytest.approx(rate / 10 if name.startswith("backbone.") else rate),
            0.0 if kept.search(name) else 0.05,
        )
        for name in names.values()
    }
    assert found[f"sem_seg_head.{decays}"] == (rate, 0.05)


MASK2FORMER_RATES = {
    # 50 and 100 epochs on COCO: a warm-up of factor 1, which is none, and two drops to a tenth.
    "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep": {
        0: 1e-4, 5: 1e-4, 327777: 1e-4, 327778: 1e-5, 355091: 1e-5, 355092: 1e-6, 368749: 1e-6
    },
    "coco/instance-segmentation/swin/maskformer2_swin_large_IN21k_384_bs16_100ep": {
        0: 1e-4, 655555: 1e-4, 655556: 1e-5, 710183: 1e-5, 710184: 1e-6
    },
    # All others: to the power of 0.9 down to 0, from the first iteration on.
    "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k": {
        0: 1e-4, 1: 9.99994375e-5, 80000: 5.35886731e-5, 144000: 1.25892541e-5, 159999: 2.07153e-9
    },
    "cityscapes/instance-segmentation/maskformer2_R50_bs16_90k": {0: 1e-4, 45000: 5.35886731e-5},
    "mapillary-vistas/panoptic-segmentation/maskformer_R50_bs16_300k": {270000: 1.25892541e-5},
}  # fmt: skip


@pytest.mark.parametrize("name", MASK2FORMER_RATES)
def test_mask2formers_schedules(name):
    """A backbone learns at a tenth of the rate of the rest, at every iteration."""
    cfg = load_config(str(ROOT / f"configs/mask2former/{name}.yaml"))
    model = nn.ModuleDict({"backbone": nn.Linear(1, 1), "sem_seg_head": nn.Linear(1, 1)})
    optimizer = build_optimizer(cfg, model)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05]
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()
    for iteration, expected in MASK2FORMER_RATES[name].items():
        if iteration > 0:
            scheduler.last_epoch = iteration - 1
            scheduler.step()
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([expected / 10, expected], rel=1e-4)
