import cv2
import pytest
import torch
from detectron2.engine import HookBase

from mask_former.errors import UserError
from tests.engine.toy import (
    ToyLoader,
    ToyTrainer,
    dataset,  # noqa: F401  (a fixture)
    toy_cfg,
    train,
)


def test_training_ends_with_an_evaluation_of_its_last_weights(tmp_path):
    trainer, results, _ = train(toy_cfg(tmp_path / "run"))
    weight = trainer.model.w.mean().item()
    assert results == {"sem_seg": {"mIoU": pytest.approx(weight)}}
    assert weight > 0
    assert (tmp_path / "run" / "model_final.pth").exists()
    assert any(path.name.startswith("events.") for path in (tmp_path / "run").iterdir())


def test_evaluating_more_often_does_not_change_the_training(tmp_path):
    weights = []
    for period in (0, 1):
        cfg = toy_cfg(tmp_path / str(period))
        cfg.TEST.EVAL_PERIOD = period
        weights.append(train(cfg)[0].model.w.detach())
    assert torch.equal(*weights)


def test_several_test_sets_are_told_apart(tmp_path):
    cfg = toy_cfg(tmp_path / "run")
    cfg.DATASETS.TEST = ("toy", "toy_2")
    results = train(cfg)[1]
    assert list(results) == ["toy", "toy_2"]
    best = torch.load(tmp_path / "run" / "model_best.pth", weights_only=True)
    assert best["metric"] == "toy/sem_seg/mIoU"


def test_without_test_set(tmp_path):
    cfg = toy_cfg(tmp_path / "run")
    cfg.DATASETS.TEST = ()
    assert train(cfg)[1] == {}


@pytest.mark.parametrize("bad_iter", [2, 3])
def test_a_loss_that_is_not_finite_stops_with_iteration_and_image(tmp_path, bad_iter, caplog):
    """Also in the last iteration, after which a training is evaluated, unless it failed."""
    bad = type("BadTrainer", (ToyTrainer,), {"bad_iter": bad_iter})
    trainer = bad(toy_cfg(tmp_path / "run", CHECKPOINT_PERIOD=1))
    message = rf"Iteration {bad_iter}: .*loss_a = nan.*{bad_iter}\.jpg"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    assert trainer.last_results == {}
    assert trainer.model.w.isfinite().all()
    last = tmp_path / "run" / "last_checkpoint"
    assert last.read_text() == f"model_000000{bad_iter - 1}.pth"
    # A message for users is logged without a traceback.
    messages = [r for r in caplog.records if "The training failed" in r.message]
    assert [f"Iteration {bad_iter}" in r.message and not r.exc_info for r in messages] == [True]
    # What was learned until then is on record.
    assert f'"iteration": {bad_iter - 1}' in (tmp_path / "run" / "metrics.json").read_text()


class Diverge(HookBase):
    """Ruins the weights in an update, where the loss was finite."""

    def __init__(self, iteration):
        self._iteration = iteration

    def before_step(self):
        if self.trainer.iter == self._iteration:
            self.trainer.model.w.grad = None
            self.trainer.step.update = lambda: self.trainer.model.w.data.fill_(float("nan"))


@pytest.mark.parametrize(
    ("checkpoints", "evaluations", "message"),
    [
        (2, 0, "model_0000001.pth is not written: 1 of 1 weights"),
        (10, 2, "The model is not evaluated: 1 of 1 weights"),
        (10, 0, "Iteration 2: 1 of 1 weights"),
    ],
)
def test_weights_that_are_not_finite_end_a_training(tmp_path, checkpoints, evaluations, message):
    cfg = toy_cfg(tmp_path, CHECKPOINT_PERIOD=checkpoints)
    cfg.TEST.EVAL_PERIOD = evaluations
    trainer = ToyTrainer(cfg)
    trainer.register_hooks([Diverge(1)])
    with pytest.raises(FloatingPointError, match=f"{message} are not finite.*SOLVER.BASE_LR"):
        trainer.train()
    assert trainer.last_results == {}
    assert not list(tmp_path.glob("model*"))


class Unreadable(ToyLoader):
    """The third batch has an image that cannot be read."""

    def __iter__(self):
        for iteration, batch in enumerate(super().__iter__(), self.start_iter):
            if iteration == 2:
                raise UserError("2.jpg cannot be read as an image")
            yield batch


def test_an_image_that_cannot_be_read_costs_no_iteration(tmp_path, monkeypatch):
    cfg = toy_cfg(tmp_path, CHECKPOINT_PERIOD=10)
    message = "2.jpg cannot be read.*mended: 2 of 4 iterations are kept in .*1.pth.*--resume"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
        patch.setattr("tests.engine.toy.ToyLoader", Unreadable)
        train(cfg)
    resumed, _, _ = train(cfg, resume=True)
    straight, _, _ = train(toy_cfg(tmp_path / "straight"))
    assert resumed.start_iter == 2 and torch.equal(resumed.model.w, straight.model.w)


def test_what_cannot_be_kept_does_not_hide_the_image(tmp_path, monkeypatch):
    trainer = ToyTrainer(toy_cfg(tmp_path, CHECKPOINT_PERIOD=10))
    trainer.register_hooks([Diverge(1)])
    monkeypatch.setattr("tests.engine.toy.ToyLoader", Unreadable)
    with pytest.raises(UserError, match="2.jpg cannot be read.*is not written.*not finite"):
        trainer.train()


def test_the_curves_are_drawn(tmp_path):
    folder = tmp_path / "F$a_$b$^$"  # no formula
    train(toy_cfg(folder))
    assert cv2.imread(str(folder / "curves.png")).shape[1] > 1000


def test_weights_that_are_not_finite_are_not_evaluated(tmp_path):
    cfg = toy_cfg(tmp_path)
    cfg.MODEL.WEIGHTS = str(tmp_path / "nan.pth")
    torch.save({"model": {"w": torch.full((8,), float("nan"))}}, cfg.MODEL.WEIGHTS)
    with pytest.raises(FloatingPointError, match="not evaluated: 1 of 1 weights are not finite"):
        ToyTrainer.evaluate(cfg)


def test_a_bug_is_logged_with_its_traceback(tmp_path, caplog):
    class BugHook(HookBase):
        def after_step(self):
            int("a bug")

    trainer = ToyTrainer(toy_cfg(tmp_path / "run"))
    trainer.register_hooks([BugHook()])
    with pytest.raises(ValueError, match="invalid literal"):
        trainer.train()
    assert 'int("a bug")' in caplog.text


def test_predictions_are_saved_by_an_evaluation_and_not_during_a_training(tmp_path, monkeypatch):
    """In a folder for each data set, lest the second overwrites what is saved for the first."""
    monkeypatch.setattr(ToyTrainer, "output_folders", [])
    cfg = toy_cfg(tmp_path / "run")
    cfg.DATASETS.TEST = ("toy", "toy_2")
    train(cfg)
    assert ToyTrainer.output_folders == [None, None]
    ToyTrainer.evaluate(cfg, resume=True)
    folders = [str(tmp_path / "run" / "inference" / name) for name in cfg.DATASETS.TEST]
    assert ToyTrainer.output_folders[2:] == folders


@pytest.mark.parametrize("seen", [[True, False], [False, True]])
def test_a_checkpoint_that_only_some_processes_see_is_an_error(tmp_path, monkeypatch, seen):
    """Else those who don't would start anew, beside the others."""
    cfg = toy_cfg(tmp_path / "run")
    cfg.MODEL.WEIGHTS = train(cfg)[2] + "/model_final.pth"
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda _: seen)
    with pytest.raises(FileNotFoundError, match="OUTPUT_DIR .* share"):
        ToyTrainer(cfg).resume_or_load(resume=True)
    with pytest.raises(FileNotFoundError, match="OUTPUT_DIR .* share"):
        ToyTrainer.evaluate(cfg, resume=True)


def test_evaluate_needs_weights(tmp_path):
    with pytest.raises(ValueError, match="MODEL.WEIGHTS.*--resume"):
        ToyTrainer.evaluate(toy_cfg(tmp_path / "run"), resume=True)


def test_evaluate_loads_weights(tmp_path):
    cfg = toy_cfg(tmp_path / "run")
    expected = train(cfg)[1]
    assert ToyTrainer.evaluate(cfg, resume=True) == expected
    cfg.MODEL.WEIGHTS = str(tmp_path / "run" / "model_final.pth")
    assert ToyTrainer.evaluate(cfg) == expected


def test_hooks_can_be_added(tmp_path):
    class Counter(HookBase):
        backwards = 0

        def after_backward(self):
            self.backwards += 1

    counter = Counter()
    trainer = ToyTrainer(toy_cfg(tmp_path / "run"))
    trainer.register_hooks([counter])
    trainer.train()
    assert counter.backwards == 4
