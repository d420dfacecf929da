"""What is said of a training when it starts."""

import torch
from torch import nn

from mask_former import precision
from mask_former.engine.summary import summarize
from tests.engine.toy import (
    ToyLoader,
    ToyModel,
    dataset,  # noqa: F401  (a fixture)
    toy_cfg,
)


def summary_rows(cfg, model, **options):
    text = summarize(cfg, model, ToyLoader(0), **options)
    rows = dict(line.strip().split("  ", 1) for line in text.splitlines()[1:])
    return {label: value.strip() for label, value in rows.items()}


def test_summary_of_a_fine_tuning(tmp_path):
    cfg = toy_cfg(tmp_path, IMS_PER_BATCH=6, ACCUMULATION_STEPS=3, EARLY_STOPPING_PATIENCE=2)
    cfg.SOLVER.LR_FACTORS = [["^w", 3.0]]
    cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = [1, 1, 0.5, 1, 2]
    cfg.TEST.LOSS.ENABLED, cfg.TEST.BEST_CHECKPOINT_METRIC = True, "validation/total_loss"
    model = nn.Sequential(ToyModel(), nn.Linear(2, 2).requires_grad_(False))
    rows = summary_rows(cfg, model)
    assert rows["batch"] == "6 images (2 x 1 process x 3 parts)"
    assert rows["classes"] == "5 (2 things, 3 stuff), weights 1, 1, 0.5, 1, 2"
    assert rows["learning rate"].startswith("0.1 (backbone x 0.1, ^w x 3), ADAMW")
    assert rows["frozen"] == "1"
    assert rows["validation loss"] == "toy"
    assert rows["early stopping"] == "after 2 evaluations without a better validation/total_loss"
    assert (
        not {"frozen", "validation loss", "early stopping"}
        & summary_rows(toy_cfg(tmp_path), ToyModel()).keys()
    )


def test_summary_says_what_will_happen(tmp_path, monkeypatch):
    cfg = toy_cfg(tmp_path / "run", IMS_PER_BATCH=2, LR_SCHEDULER_NAME="WarmupPolyLR")
    cfg.SOLVER.AMP.ENABLED, cfg.TEST.PRECISION = True, "float32"
    monkeypatch.setattr(precision, "native_dtypes", lambda device: {torch.bfloat16})
    rows = summary_rows(cfg, ToyModel(), start_iter=1)
    assert rows["training data"] == "toy: 5 images"
    assert rows["test data"] == "toy"
    assert rows["classes"] == "5 (2 things, 3 stuff)"
    assert rows["batch"] == "2 images (2 x 1 process)"
    assert rows["iterations"] == "4 (1.6 epochs), continuing at 1"
    assert rows["learning rate"].startswith("0.1 (backbone x 0.1), ADAMW, WarmupPolyLR")
    assert rows["precision"] == "mixed, bfloat16; evaluation: float32"
    assert rows["output"] == str(tmp_path / "run")
