import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from mask_former.data.random_state import get_random_state, set_random_state
from mask_former.engine.evaluation_hooks import BestCheckpoint, is_better
from mask_former.engine.hooks import ProgressBar, RandomState


def draw():
    return torch.rand(2).tolist() + np.random.rand(2).tolist()


class Run:
    """As much of a trainer as the hooks see; evaluations are given."""

    def __init__(self, *hooks, start_iter=0, max_iter=100):
        self.hooks = hooks
        self.start_iter, self.iter, self.max_iter = start_iter, start_iter, max_iter
        self.storage = EventStorage(start_iter)
        for hook in hooks:
            hook.trainer = self
            hook.before_train()

    def step(self, **metrics):
        self.storage.iter = self.iter
        self.storage.put_scalar("total_loss", 2.0)
        self.storage.put_scalars(**metrics, smoothing_hint=False)
        for hook in self.hooks:
            hook.after_step()
        self.iter += 1

    def finish(self, **metrics):
        self.storage.iter = self.iter
        self.storage.put_scalars(**metrics, smoothing_hint=False)
        for hook in self.hooks:
            hook.after_train()


def read(folder):
    best = torch.load(folder / "model_best.pth", weights_only=True)
    return best["metric"], best["value"], best["model"]["bias"].item()


@pytest.fixture
def model():
    model = nn.Linear(1, 1)
    nn.init.constant_(model.bias, 0.0)
    return model


def evaluate(run, model, value, **metrics):
    """An iteration that changes the weights, with an evaluation after it."""
    nn.init.constant_(model.bias, value)
    run.step(**metrics)


def test_best_weights_are_kept(model, tmp_path):
    run = Run(BestCheckpoint(model, str(tmp_path), "segm/AP"))
    run.step()
    assert not (tmp_path / "model_best.pth").exists()
    evaluate(run, model, 1.0, **{"segm/AP": 30.0, "panoptic_seg/PQ": 5.0})
    evaluate(run, model, 2.0, **{"segm/AP": float("nan"), "panoptic_seg/PQ": 9.0})
    evaluate(run, model, 3.0, **{"segm/AP": 29.0, "panoptic_seg/PQ": 9.0})
    run.step()  # no evaluation: the storage still has the metrics of the last one
    assert read(tmp_path) == ("segm/AP", 30.0, 1.0)
    nn.init.constant_(model.bias, 4.0)
    run.finish(**{"segm/AP": 31.0, "panoptic_seg/PQ": 5.0})
    assert read(tmp_path) == ("segm/AP", 31.0, 4.0)
    assert not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize(
    ("name", "lower_is_better"),
    [
        ("sem_seg/IoU-floss", False),  # the name of a class
        ("segm/AP-loss", False),
        ("sem_seg/mIoU", False),
        ("my_val/sem_seg_TTA/mIoU", False),
        ("validation/total_loss", True),
        ("my_val/validation/loss_ce", True),
        ("count/MAE-cat", True),
    ],
)
def test_lower_losses_and_errors_are_better(name, lower_is_better):
    assert is_better(name, 1.0, 2.0) == lower_is_better
    assert is_better(name, 2.0, 1.0) != lower_is_better


NAN = float("nan")


@pytest.mark.parametrize("wanted", ["segm/AP-dog", ""])
def test_a_metric_that_is_nan_is_said_and_the_next_decides(model, tmp_path, caplog, wanted):
    first = wanted or "panoptic_seg/PQ"
    run = Run(BestCheckpoint(model, str(tmp_path), wanted))
    evaluate(run, model, 1.0, **{first: NAN, "segm/AP": 20.0})
    assert read(tmp_path) == ("segm/AP", 20.0, 1.0)
    assert f"{first} is not a number" in caplog.text and "segm/AP decides" in caplog.text
    evaluate(run, model, 2.0, **{first: NAN, "segm/AP": 10.0})
    evaluate(run, model, 3.0, **{first: NAN, "segm/AP": NAN})
    assert read(tmp_path) == ("segm/AP", 20.0, 1.0)
    # It has a value at last, which counts more, even if it is less.
    evaluate(run, model, 4.0, **{first: 5.0, "segm/AP": 30.0})
    evaluate(run, model, 5.0, **{first: NAN, "segm/AP": 40.0})
    assert read(tmp_path) == (first, 5.0, 4.0)


def test_only_metrics_that_are_nan(model, tmp_path, caplog):
    run = Run(BestCheckpoint(model, str(tmp_path)))
    evaluate(run, model, 1.0, **{"segm/AP": NAN})
    assert "no best checkpoint is kept" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"segm/AP": 1.0, "sem_seg/mIoU": 2.0, "panoptic_seg/PQ": 3.0}, "panoptic_seg/PQ"),
        ({"bbox/AP": 1.0, "segm/AP": 1.0}, "segm/AP"),
        ({"a/sem_seg/mIoU": 1.0, "b/sem_seg/mIoU": 2.0}, "a/sem_seg/mIoU"),
    ],
)
def test_metric_that_decides(model, tmp_path, metrics, expected):
    run = Run(BestCheckpoint(model, str(tmp_path)))
    run.step(**metrics)
    assert read(tmp_path)[:2] == (expected, metrics[expected])


def test_metric_that_is_not_reported(model, tmp_path, caplog):
    run = Run(BestCheckpoint(model, str(tmp_path), "segm/AB"))
    with caplog.at_level(logging.WARNING):
        run.step()
        assert not caplog.messages
        run.step(**{"segm/AP": 1.0})
    assert "'segm/AB'" in caplog.text and "segm/AP" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


def test_best_metric_survives_an_interruption(model, tmp_path):
    evaluate(Run(BestCheckpoint(model, str(tmp_path))), model, 1.0, **{"sem_seg/mIoU": 30.0})
    resumed = Run(BestCheckpoint(model, str(tmp_path)), start_iter=5)
    evaluate(resumed, model, 2.0, **{"sem_seg/mIoU": 20.0})
    assert read(tmp_path) == ("sem_seg/mIoU", 30.0, 1.0)
    evaluate(resumed, model, 3.0, **{"sem_seg/mIoU": 40.0})
    assert read(tmp_path) == ("sem_seg/mIoU", 40.0, 3.0)


def test_best_file_of_another_metric_or_run_does_not_count(model, tmp_path):
    evaluate(Run(BestCheckpoint(model, str(tmp_path))), model, 1.0, **{"sem_seg/mIoU": 30.0})
    other_metric = Run(BestCheckpoint(model, str(tmp_path), "segm/AP"), start_iter=5)
    evaluate(other_metric, model, 2.0, **{"segm/AP": 10.0})
    assert read(tmp_path) == ("segm/AP", 10.0, 2.0)
    from_the_start = Run(BestCheckpoint(model, str(tmp_path), "segm/AP"))
    evaluate(from_the_start, model, 3.0, **{"segm/AP": 5.0})
    assert read(tmp_path) == ("segm/AP", 5.0, 3.0)


def test_progress_bar(model, capsys):
    run = Run(ProgressBar(show=True), start_iter=2, max_iter=4)
    run.step()
    run.step()
    run.finish()
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "4/4" in shown and "loss=2.000" in shown


def test_progress_bar_keeps_quiet_where_nobody_looks(capsys):
    run = Run(ProgressBar(), max_iter=1)
    run.step()
    run.finish()
    assert capsys.readouterr().err == ""


def test_no_progress_bar_of_a_training_that_never_began(capsys):
    ProgressBar(show=True).after_train()  # as after another hook's error in before_train
    assert capsys.readouterr().err == ""


def test_random_state_of_a_checkpoint():
    hook = RandomState(period=2)
    run = Run(hook, max_iter=3)
    run.step()
    assert hook.state_dict() == {"states": []}
    run.step()
    saved = hook.state_dict()
    first = draw()
    resumed = RandomState(period=2)
    resumed.load_state_dict(saved)
    Run(resumed, start_iter=2)
    assert draw() == first
    run.step()  # the last iteration
    assert hook.state_dict() is not saved and len(hook.state_dict()["states"]) == 1


def test_random_state_of_other_processes_is_not_used(caplog):
    state = get_random_state()
    expected = draw()
    hook = RandomState(period=2)
    hook.load_state_dict({"states": [state, state]})
    set_random_state(state)
    hook.trainer = SimpleNamespace()
    hook.before_train()
    assert "2 processes" in caplog.text
    assert draw() == expected


def test_of_errors_the_smallest_is_the_best(model, tmp_path):
    run = Run(BestCheckpoint(model, str(tmp_path), "count/MAE"))
    for value, error in enumerate([2.0, 0.5, 0.75], start=1):
        evaluate(run, model, value, **{"count/MAE": error})
    assert read(tmp_path) == ("count/MAE", 0.5, 2.0)
    resumed = Run(BestCheckpoint(model, str(tmp_path), "count/MAE"), start_iter=3)
    evaluate(resumed, model, 4.0, **{"count/MAE": 0.6})
    evaluate(resumed, model, 5.0, **{"count/MAE": 0.25})
    assert read(tmp_path) == ("count/MAE", 0.25, 5.0)
