"""The poly schedules: Segmenter's, which ends above zero, and EoMT's, of two stages."""

import pytest
from torch import nn

from mask_former.engine import get_cfg
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
from mask_former.engine.poly_schedule import IN_BACKBONE
from mask_former.engine.resume import fit_to_config
from mask_former.errors import UserError


def rates(iterations, **solver):
    """The rates of a backbone that learns at a tenth, and of a head, at these iterations."""
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER = "WarmupPolyLR", 1000
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = 0, 1e-3
    cfg.SOLVER.update(solver)
    model = nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    found = {}
    for iteration in range(1001):
        if iteration in iterations:
            found[iteration] = scheduler.get_last_lr()
        if iteration < 1000:
            optimizer.step()
            scheduler.step()
    return found


def test_segmenters_schedule():
    """(rate - 1e-5) (1 - t / T)^0.9 + 1e-5; half-way 0.5^0.9 = 0.5358867."""
    found = rates((0, 500, 1000), BASE_LR_END=1e-5, BACKBONE_MULTIPLIER=1.0)
    assert {iteration: rate for iteration, (rate,) in found.items()} == pytest.approx(
        {0: 1e-3, 500: 9.9e-4 * 0.5358867 + 1e-5, 1000: 1e-5}
    )


def test_every_group_falls_in_proportion():
    for backbone, head in rates((0, 300, 1000), BASE_LR_END=1e-4).values():
        assert backbone == pytest.approx(head / 10)
    assert rates((1000,), BASE_LR_END=1e-4)[1000] == pytest.approx([1e-5, 1e-4])


def test_without_an_end_it_is_deeplabs():
    assert rates((1000,))[1000] == [0, 0]


def test_an_end_above_the_rate_is_refused():
    with pytest.raises(UserError, match="BASE_LR_END is 0.01, above SOLVER.BASE_LR 0.001"):
        rates((0,), BASE_LR_END=1e-2)


def two_stage_cfg(**opts):
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


def rates_of_both(cfg):
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
    backbone, head = rates_of_both(two_stage_cfg())
    assert head[:4] == pytest.approx([0, 1 / 2, 1, 13 / 14])
    assert backbone[:8] == pytest.approx([0, 0, 0, 1 / 4, 1 / 2, 3 / 4, 1, 9 / 10])
    assert (backbone[-1], head[-1]) == (0, 0)
    assert backbone[15] == pytest.approx(1 / 10)


def test_the_keys_of_the_polynomial():
    keys = {"POLY_LR_POWER": 0.9, "POLY_LR_CONSTANT_ENDING": 0.2, "WARMUP_FACTOR": 0.5}
    backbone, head = rates_of_both(two_stage_cfg(**keys))
    assert head[:4] == pytest.approx([0.5, 0.75, 1, (13 / 14) ** 0.9])
    assert backbone[:4] == pytest.approx([0, 0, 0.5, 0.625])
    assert head[-3:] == [0.2, 0.2, 0.2]
    backbone, head = rates_of_both(two_stage_cfg(WARMUP_METHOD="constant", BASE_LR_END=0.1))
    assert head[:4] == pytest.approx([0, 0, 1, 0.1 + 0.9 * 13 / 14])
    assert (backbone[-1], head[-1]) == pytest.approx((0.1, 0.1))


def test_other_schedules_keep_their_groups():
    optimizer, _ = build(two_stage_cfg(LR_SCHEDULER_NAME="WarmupPolyLR", BACKBONE_WARMUP_ITERS=0))
    assert len(optimizer.param_groups) == 1


def test_a_training_that_is_resumed_may_get_two_stages_or_lose_them():
    one = {"LR_SCHEDULER_NAME": "WarmupPolyLR", "BACKBONE_WARMUP_ITERS": 0}
    cfgs = [two_stage_cfg(BACKBONE_MULTIPLIER=0.5, **options) for options in (one, {})]
    # Of the backbone, and of the head in its warm-up of two iterations.
    for before, cfg, expected in zip(
        cfgs, reversed(cfgs), ([0, 1 / 2], [1 / 4, 1 / 2]), strict=True
    ):
        state = {"iteration": 0, "hooks": {"LRScheduler": {}}, "step": {}}
        state["optimizer"] = build(before)[0].state_dict()
        optimizer, scheduler = build(cfg)
        fit_to_config(state, cfg, optimizer)
        optimizer.load_state_dict(state["optimizer"])
        assert [IN_BACKBONE in group for group in optimizer.param_groups] == [
            not expected[0],
            False,
        ]
        optimizer.step()
        scheduler.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx(expected, rel=0.1)  # beside the warm-up the polynomial


def test_a_training_that_is_resumed_has_the_weight_decay_of_its_config():
    cfg = two_stage_cfg(WEIGHT_DECAY=0.3)
    optimizer, _ = build(cfg)
    state = {"iteration": 0, "hooks": {"LRScheduler": {}}, "step": {}}
    state["optimizer"] = build(two_stage_cfg(WEIGHT_DECAY=0.1))[0].state_dict()
    fit_to_config(state, cfg, optimizer)
    optimizer.load_state_dict(state["optimizer"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_only_eomts_schedule_warms_the_backbone_up_on_its_own():
    with pytest.raises(UserError, match="BACKBONE_WARMUP_ITERS is 4, but WarmupPolyLR has no"):
        build(two_stage_cfg(LR_SCHEDULER_NAME="WarmupPolyLR"))
