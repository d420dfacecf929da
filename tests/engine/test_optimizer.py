"""Optimizer, clipping and schedule, against the published recipe and hand-computed steps."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from mask_former.engine.config import get_cfg, load_config
from mask_former.engine.optimizer import (
    build_lr_scheduler,
    build_optimizer,
    clip_gradients_before_step,
    param_groups,
)
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


def test_the_multi_step_schedule_warms_up_and_drops():
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA, cfg.SOLVER.MAX_ITER = 1.0, 0.1, 10
    cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = (6, 8), 2, 0.5
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


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


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(2))

    def no_weight_decay(self):
        return {"positions"}


class Parts(nn.Module):
    """One parameter of each kind; the shared and the frozen one count once, and not at all."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.backbone.norm = nn.BatchNorm2d(4)
        self.backbone.attention = Attention()
        self.queries = nn.Embedding(2, 4)
        self.layer_norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.shared = self.linear
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_the_rules_for_norms_embeddings_and_backbone():
    model = Parts()
    groups = param_groups(
        model,
        lr=1.0,
        backbone_multiplier=0.5,
        weight_decay=0.1,
        weight_decay_norm=0.2,
        weight_decay_embed=0.3,
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [(g["lr"], g["weight_decay"], [names[p] for p in g["params"]]) for g in groups]
    assert found == [
        (0.5, 0.1, ["backbone.conv.weight"]),
        (0.5, 0.2, ["backbone.norm.weight", "backbone.norm.bias"]),
        (0.5, 0.3, ["backbone.attention.positions"]),
        (1.0, 0.3, ["queries.weight"]),
        (1.0, 0.2, ["layer_norm.weight", "layer_norm.bias"]),
        (1.0, 0.1, ["linear.weight", "linear.bias"]),
    ]


GRADIENTS = [[3.0, 0.0], [0.0, 4.0]]  # their norm, taken together: 5


@pytest.mark.parametrize(
    ("clip_type", "limit", "expected"),
    [
        ("full_model", 1.0, [[0.6, 0.0], [0.0, 0.8]]),
        ("full_model", 10.0, GRADIENTS),
        ("norm", 3.5, [[3.0, 0.0], [0.0, 3.5]]),
        ("value", 2.0, [[2.0, 0.0], [0.0, 2.0]]),
    ],
)
@pytest.mark.parametrize("loss_scale", [None, 1024.0])
def test_clipping_limits_the_step(clip_type, limit, expected, loss_scale):
    params = [nn.Parameter(torch.zeros(2)) for _ in GRADIENTS]
    groups = [{"params": [parameter]} for parameter in params]  # full_model: across groups
    optimizer = torch.optim.SGD(groups, lr=1.0, fused=True)
    clip_gradients_before_step(optimizer, clip_type, limit)
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=loss_scale or 1.0, enabled=loss_scale is not None
    )
    loss = sum((p * torch.tensor(g)).sum() for p, g in zip(params, GRADIENTS, strict=True))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    torch.testing.assert_close([-p.detach() for p in params], [torch.tensor(e) for e in expected])


def test_a_step_whose_scaled_gradients_overflow_is_skipped():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)
    clip_gradients_before_step(optimizer, "full_model", 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    scaler.scale((parameter * 4).sum()).backward()
    assert parameter.grad.isinf().all()
    scaler.step(optimizer)
    assert torch.equal(parameter.detach(), torch.ones(2))


def test_the_cfg_switches_clipping_on():
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "SGD", 1.0, 0.0
    for enabled, expected in ((False, 5.0), (True, 0.01)):
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = enabled
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
        model = nn.Linear(1, 1, bias=False)
        before = model.weight.item()
        model.weight.grad = torch.full((1, 1), 5.0)
        build_optimizer(cfg, model).step()
        assert before - model.weight.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("SOLVER.OPTIMIZER", "ADAMW"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known(key, known):
    cfg = get_cfg()
    cfg.merge_from_list([key, "ADAMN", "SOLVER.CLIP_GRADIENTS.ENABLED", True])
    if key != "SOLVER.CLIP_GRADIENTS.CLIP_TYPE":
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    with pytest.raises(ValueError, match=f"{key} is 'ADAMN'.*{known}"):
        build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_a_first_step_that_a_scaler_leaves_out_leaves_no_trace(name):
    """Its gradients are infinite, as they often are with float16 until the scale fits."""
    weights = []
    for gradients in ([math.inf, 1.0, 2.0], [1.0, 2.0]):
        model = nn.Linear(3, 2)
        nn.init.ones_(model.weight)
        cfg = get_cfg()
        cfg.SOLVER.OPTIMIZER, cfg.SOLVER.CLIP_GRADIENTS.ENABLED = name, False
        optimizer = build_optimizer(cfg, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for gradient in gradients:
            scale = scaler.scale(torch.ones(())).item()
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient * scale)
            scaler.step(optimizer)
            scaler.update()
        weights.append(model.weight.detach())
    assert not torch.equal(weights[0], torch.ones(2, 3))
    torch.testing.assert_close(*weights)
