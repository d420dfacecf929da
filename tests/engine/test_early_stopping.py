"""SOLVER.EARLY_STOPPING_PATIENCE: where a training ends that does not become better."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase

from mask_former.engine import Trainer, check_run
from mask_former.engine.interruption import Interrupted
from mask_former.errors import UserError
from mask_former.evaluation.metrics_file import read_metrics
from tests.engine import tiny
from tests.engine.toy import (
    ToyEvaluator,
    ToyTrainer,
    dataset,  # noqa: F401  (a fixture)
    toy_cfg,
)

NAN = float("nan")


class Given(ToyEvaluator):
    """Metrics that are given, one dict after the other; `made` counts the evaluations."""

    metrics: list = []
    made = 0

    def evaluate(self):
        Given.made += 1
        value = Given.metrics[min(Given.made, len(Given.metrics)) - 1]
        return value if isinstance(value, dict) else {"sem_seg": {"mIoU": value}}


@pytest.fixture
def given(monkeypatch):
    """Sets the metrics of the coming evaluations."""
    monkeypatch.setattr(ToyTrainer, "build_evaluator", classmethod(lambda *_: Given()))

    def given(*metrics, made=0):
        Given.metrics, Given.made = list(metrics), made

    return given


def cfg_of(folder, patience=2, metric="", **solver):
    cfg = toy_cfg(folder, MAX_ITER=20, EARLY_STOPPING_PATIENCE=patience, **solver)
    cfg.TEST.EVAL_PERIOD, cfg.TEST.BEST_CHECKPOINT_METRIC = 2, metric
    return cfg


def run(cfg, *hooks, resume=False):
    trainer = ToyTrainer(cfg)
    trainer.register_hooks(hooks)
    trainer.resume_or_load(resume=resume)
    return trainer, trainer.train()


def loss(total, miou=0.0):
    return {"sem_seg": {"mIoU": miou}, "validation": {"total_loss": total}}


@pytest.mark.parametrize(
    ("metric", "metrics", "evaluations"),
    [
        ("", [1, 2, 2, 1], 4),  # equal is not better
        ("", [5, 4, 6, 5, 4, 9], 5),
        ("", [1, NAN, 0, NAN, NAN, 1], 6),  # NaN does not count
        ("", [9, 8, 7], 3),
        ("", range(1, 11), 10),  # never: to the end
        ("sem_seg/mIou", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 10),  # no such metric
        ("validation/total_loss", [loss(9), loss(8, 5), loss(8, 9), loss(8.1, 10)], 4),
    ],
)
def test_it_ends_after_so_many_evaluations_without_a_better_one(
    tmp_path, given, metric, metrics, evaluations
):
    given(*metrics)
    trainer, results = run(cfg_of(tmp_path, metric=metric))
    assert Given.made == evaluations
    assert trainer.iter == trainer.max_iter == 2 * evaluations
    last = metrics[evaluations - 1]
    assert results == (last if isinstance(last, dict) else {"sem_seg": {"mIoU": last}})
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert torch.equal(final["model"]["w"], trainer.model.w)
    assert final["iteration"] == final["trainer"]["iteration"] == 2 * evaluations - 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] >= 2 * evaluations - 1


def test_the_best_weights_are_those_before(tmp_path, given):
    given(1, 3, 2, 2)
    run(cfg_of(tmp_path))
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (best["value"], best["iteration"]) == (3, 3)


class Stop(HookBase):
    """A signal in an iteration, or an error like that of a killed run, before or after its
    evaluation."""

    def __init__(self, iteration, name=None):
        self._iteration, self._name = iteration, name

    def after_step(self):
        if self.trainer.iter == self._iteration:
            if not self._name:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.Signals[self._name])


METRICS = [1, 3, 2, 4, 4, 3, 5, 6, 7, 8]  # ends with the 6th, after iteration 11


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 4])
@pytest.mark.parametrize("iteration", [5, 6, 7, 10])
@pytest.mark.parametrize("name", ["SIGTERM", None])
def test_a_resumed_training_ends_where_it_would_have_ended(
    tmp_path, given, checkpoints, iteration, name
):
    """Interrupted by a signal, or killed: then from the last checkpoint, whose evaluation came
    after it."""
    cfg = cfg_of(tmp_path, CHECKPOINT_PERIOD=checkpoints)
    given(*METRICS)
    with pytest.raises(Interrupted if name else KeyboardInterrupt):
        run(cfg, Stop(iteration, name))
    last = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text(), weights_only=True)
    counted = last["trainer"]["hooks"]["EarlyStopping"]["iteration"]
    recorded = read_metrics(tmp_path / "metrics.json")
    made = sum(
        "sem_seg/mIoU" in entry for entry in recorded if entry["iteration"] <= last["iteration"]
    )
    assert made >= (counted + 1) // 2
    given(*METRICS, made=made)
    trainer, results = run(cfg, resume=True)
    assert trainer.iter == 12
    assert results == {"sem_seg": {"mIoU": 3}}


def test_a_training_that_has_ended_stays_ended_unless_it_gets_more_patience(tmp_path, given):
    given(*METRICS)
    ended, _ = run(cfg_of(tmp_path))
    given(7)
    again, results = run(cfg_of(tmp_path), resume=True)
    assert again.iter == 12 and results == {"sem_seg": {"mIoU": 7}}
    assert torch.equal(again.model.w, ended.model.w)
    given(*METRICS, made=6)
    longer, _ = run(cfg_of(tmp_path, patience=3), resume=True)
    assert longer.iter == 20
    given(*METRICS, made=6)


def test_killed_between_the_decision_and_the_checkpoint(tmp_path, given, monkeypatch):
    cfg = cfg_of(tmp_path, CHECKPOINT_PERIOD=2)
    given(*METRICS)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(cfg)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000011.pth"
    given(*METRICS, made=5)
    trainer, results = run(cfg, resume=True)
    assert trainer.iter == 12 and results == {"sem_seg": {"mIoU": 3}}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize("patience", [0, 2])  # 0: there is no early end
def test_the_evaluation_that_is_made_up_for_may_be_the_best(tmp_path, given, monkeypatch, patience):
    """Killed in the third evaluation, that after iteration 5, which then is the best."""
    cfg = cfg_of(tmp_path, patience, CHECKPOINT_PERIOD=2)
    given(1, 2)
    with monkeypatch.context() as patch:
        evaluate = Given.evaluate
        patch.setattr(Given, "evaluate", lambda self: evaluate(self) if Given.made < 2 else exit())
        with pytest.raises(SystemExit):
            run(cfg)
    last = torch.load(tmp_path / "model_0000005.pth", weights_only=True)
    given(1, 2, 9, 4, 3, made=2)
    trainer, _ = run(cfg, resume=True)
    assert trainer.iter == (10 if patience else 20)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (best["metric"], best["value"], best["iteration"]) == ("sem_seg/mIoU", 9, 5)
    assert torch.equal(best["model"]["w"], last["model"]["w"])
    found = {e["iteration"]: e.get("sem_seg/mIoU") for e in read_metrics(tmp_path / "metrics.json")}
    assert [found[iteration] for iteration in (1, 3, 5, 7, 9)] == [1, 2, 9, 4, 3]


@pytest.mark.parametrize("patience", [0, 9])
def test_an_evaluation_that_was_made_is_not_made_again(tmp_path, given, patience):
    """Killed in iteration 4, after the evaluation and the checkpoint of iteration 3; and after the
    end, with more iterations to go."""
    cfg = cfg_of(tmp_path, patience, CHECKPOINT_PERIOD=2)
    given(*METRICS)
    with pytest.raises(KeyboardInterrupt):
        run(cfg, Stop(4))
    cfg.SOLVER.MAX_ITER = 6
    run(cfg, resume=True)
    cfg.SOLVER.MAX_ITER = 20
    run(cfg, resume=True)
    assert Given.made == 10
    evaluated = [
        json.loads(line)["iteration"]
        for line in (tmp_path / "metrics.json").read_text().splitlines()
        if "mIoU" in line
    ]
    assert evaluated == [1, 3, 6, 7, 9, 11, 13, 15, 17, 20]


def test_a_signal_in_an_evaluation_that_is_made_up_for(tmp_path, given, monkeypatch):
    """The next training makes up for it, too."""
    cfg = cfg_of(tmp_path, 0, CHECKPOINT_PERIOD=2)
    given(1, 2)
    evaluate = Given.evaluate
    for end in (exit, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        with monkeypatch.context() as patch, pytest.raises((SystemExit, Interrupted)):
            patch.setattr(
                Given, "evaluate", lambda self, end=end: evaluate(self) if Given.made < 2 else end()
            )
            run(cfg, resume=True)
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    given(1, 2, 9, 4, 3, made=2)
    run(cfg, resume=True)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (best["value"], best["iteration"]) == (9, 5)


def test_two_processes_end_together(shapes_root, tmp_path):
    """By a validation loss that does not change, as nothing is learned; after the third."""
    cfg = tiny.tiny_cfg(
        tmp_path / "run",
        DATASETS__TEST=(),
        TEST__LOSS__ENABLED=True,
        TEST__LOSS__DATASETS=("shapes_val_panoptic",),
        TEST__EVAL_PERIOD=1,
        SOLVER__BASE_LR=0.0,
        SOLVER__EARLY_STOPPING_PATIENCE=2,
    )
    codes, output = tiny.run_in_two(cfg)
    assert codes == [0, 0], output
    record = tiny.read_record(cfg)
    assert list(record["losses"]) == ["0", "1", "2"]
    assert "after 2 evaluations without a better" in output
    assert "ends early, after iteration 2" in output
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize(
    "options", [{"TEST__EVAL_PERIOD": 0}, {"TEST__EVAL_PERIOD": 1, "DATASETS__TEST": ()}]
)
def test_without_evaluations_it_is_refused(shapes_root, tmp_path, options):
    cfg = tiny.tiny_cfg(tmp_path, SOLVER__EARLY_STOPPING_PATIENCE=2, **options)
    with pytest.raises(UserError, match="EARLY_STOPPING_PATIENCE is 2.*TEST.EVAL_PERIOD"):
        check_run(cfg, tiny.argument_parser().parse_args(["--record", ""]))
