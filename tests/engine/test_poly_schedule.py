"""The poly schedule that ends above zero: Segmenter's, and in proportion for every group."""

import pytest
from torch import nn

from mask_former.engine import get_cfg
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
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
