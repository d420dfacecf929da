"""The schedule in two stages, by hand, and which parameters each stage is of."""

import pytest
from torch import nn

from mask_former.engine.config import get_cfg
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
from mask_former.errors import UserError


def make_cfg(**opts):
    cfg = get_cfg()
    values = {"LR_SCHEDULER_NAME": "TwoStageWarmupPolyLR", "MAX_ITER": 16, "BASE_LR": 1.0}
    values |= {"WARMUP_ITERS": 2, "BACKBONE_WARMUP_ITERS": 4, "WARMUP_FACTOR": 0.0}
    values |= {"BACKBONE_MULTIPLIER": 1.0, "POLY_LR_POWER": 1.0}
    for key, value in (values | opts).items():
        cfg.SOLVER[key] = value
    return cfg


def build(cfg):
    model = nn.Module()
    model.backbone, model.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(cfg, model)
    return optimizer, build_lr_scheduler(cfg, optimizer)


def rates(cfg):
    optimizer, scheduler = build(cfg)
    backbone, head = [], []
    for _ in range(cfg.SOLVER.MAX_ITER + 1):
        backbone.append(optimizer.param_groups[0]["lr"])
        head.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
    return backbone, head


def test_the_backbone_waits():
    """Both have the same rate, and still are groups of their own."""
    backbone, head = rates(make_cfg())
    assert head[:4] == pytest.approx([0, 1 / 2, 1, 13 / 14])
    assert backbone[:8] == pytest.approx([0, 0, 0, 1 / 4, 1 / 2, 3 / 4, 1, 9 / 10])
    assert (backbone[-1], head[-1]) == (0, 0)
    assert backbone[15] == pytest.approx(1 / 10)


def test_the_keys_of_the_polynomial():
    keys = {"POLY_LR_POWER": 0.9, "POLY_LR_CONSTANT_ENDING": 0.2, "WARMUP_FACTOR": 0.5}
    backbone, head = rates(make_cfg(**keys))
    assert head[:4] == pytest.approx([0.5, 0.75, 1, (13 / 14) ** 0.9])
    assert backbone[:4] == pytest.approx([0, 0, 0.5, 0.625])
    assert head[-3:] == [0.2, 0.2, 0.2]


def test_other_schedules_keep_their_groups():
    optimizer, _ = build(make_cfg(LR_SCHEDULER_NAME="WarmupPolyLR", BACKBONE_WARMUP_ITERS=0))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"LR_SCHEDULER_NAME": "WarmupPolyLR"}, "BACKBONE_WARMUP_ITERS is 4, but only"),
        ({"WARMUP_METHOD": "constant"}, "WARMUP_METHOD is 'constant'"),
    ],
)
def test_what_cannot_be(keys, message):
    with pytest.raises(UserError, match=message):
        build(make_cfg(**keys))
