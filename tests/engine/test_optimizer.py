"""Optimizer, clipping and schedule, against hand-computed steps."""

import math

import pytest
import torch
from torch import nn

from mask_former.engine.config import get_cfg
from mask_former.engine.optimizer import (
    build_lr_scheduler,
    build_optimizer,
    clip_gradients_before_step,
    param_groups,
)


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


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_averages_of_another_memory_format_are_those_of_the_same_weights(name):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = name
    gradients = torch.randn(3, 4, 3, 5, 5)
    start = torch.randn(4, 3, 5, 5)

    def trained(resumed_in: torch.memory_format) -> torch.Tensor:
        """The kernels after two steps in one layout and, resumed, one in another."""
        model, state = nn.Conv2d(3, 4, 5), None
        model.weight.data.copy_(start)
        for layout, steps in ((torch.channels_last, (0, 1)), (resumed_in, (2,))):
            model.to(memory_format=layout)
            optimizer = build_optimizer(cfg, model)
            if state is not None:
                optimizer.load_state_dict(state)
            for i in steps:
                model.weight.grad = torch.empty_like(model.weight).copy_(gradients[i])
                optimizer.step()
            state = optimizer.state_dict()
        return model.weight.detach()

    expected, found = trained(torch.channels_last), trained(torch.contiguous_format)
    torch.testing.assert_close(found, expected)
