"""SOLVER.EMA_DECAY: the EMA of the weights, which is evaluated and saved."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mask_former.engine import Trainer
from mask_former.engine.config import get_cfg
from mask_former.engine.ema import build_ema
from tests.engine import tiny


def load(path):
    return torch.load(path, weights_only=True)


def test_it_follows_the_weights_by_the_formula():
    model = nn.BatchNorm1d(1)
    cfg = get_cfg()
    cfg.SOLVER.EMA_DECAY = 0.4
    ema = build_ema(cfg, model)
    expected = 0.0
    # After the first update it is the model; then it keeps 1/10, 2/11, ..., at most 0.4.
    for keeps, weight in zip(
        [0, 1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4], range(1, 9), strict=True
    ):
        model.weight.data.fill_(weight)
        model.running_mean.fill_(10 * weight)
        model.num_batches_tracked += 1
        ema.update_parameters(model)
        expected = keeps * expected + (1 - keeps) * weight
        assert ema.module.weight.item() == pytest.approx(expected)
        assert ema.module.running_mean.item() == pytest.approx(10 * expected)
        assert ema.module.num_batches_tracked == weight


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_an_error(decay, shapes_root, tmp_path):
    with pytest.raises(ValueError, match="SOLVER.EMA_DECAY is"):
        Trainer(tiny.tiny_cfg(tmp_path, SOLVER__EMA_DECAY=decay))


def test_the_average_of_all_iterations_is_saved(shapes_root, tmp_path):
    options = {"TEST__EVAL_PERIOD": 3, "SOLVER__CHECKPOINT_PERIOD": 1}
    trained = tiny.tiny_cfg(tmp_path / "trained", **options)
    averaged = tiny.tiny_cfg(tmp_path / "averaged", SOLVER__EMA_DECAY=0.9, **options)
    expected = tiny.run_here(trained)
    record = tiny.run_here(averaged)
    # Averaging does not change what is trained.
    assert record["losses"] == expected["losses"]
    average = load(tmp_path / "trained/model_0000000.pth")["model"]
    for n in range(1, 6):
        keeps = n / (9 + n)
        weights = load(
            tmp_path / f"trained/model_{n:07}.pth"
            if n < 5
            else tmp_path / "trained/model_final.pth"
        )
        average = {k: keeps * average[k] + (1 - keeps) * v for k, v in weights["model"].items()}
    final = load(tmp_path / "averaged/model_final.pth")
    torch.testing.assert_close(final["model"], average)
    for name, weight in weights["model"].items():
        assert torch.equal(final["trainer"]["trained"][name], weight), name


def test_the_ema_is_evaluated(shapes_root, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "test", lambda self, cfg, model: seen.append(model))
    trainer = Trainer(tiny.tiny_cfg(tmp_path, SOLVER__EMA_DECAY=0.9, SOLVER__MAX_ITER=1))
    trainer.train()
    assert seen == [trainer.ema.module] != [trainer.model]


def test_a_resumed_run_continues_both(shapes_root, tmp_path):
    straight = tiny.tiny_cfg(tmp_path / "straight", SOLVER__EMA_DECAY=0.9)
    expected = tiny.run_here(straight)
    short = tiny.tiny_cfg(tmp_path / "run", SOLVER__EMA_DECAY=0.9)
    tiny.run_here(short)
    folder = Path(short.OUTPUT_DIR)
    (folder / "last_checkpoint").write_text("model_0000002.pth")
    record = tiny.run_here(short, "--resume")
    assert record["losses"] == {k: v for k, v in expected["losses"].items() if int(k) >= 3}
    ours, theirs = (load(Path(cfg.OUTPUT_DIR) / "model_final.pth") for cfg in (short, straight))
    for a, b in ((ours["model"], theirs["model"]), (ours["trainer"], theirs["trainer"])):
        a, b = (x.get("trained", x) for x in (a, b))
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_averaging_starts_from_the_weights_that_are_loaded(shapes_root, tmp_path):
    first = tiny.tiny_cfg(tmp_path / "first", SOLVER__MAX_ITER=2)
    tiny.run_here(first)
    options = {"MODEL__WEIGHTS": str(tmp_path / "first/model_final.pth"), "SOLVER__EMA_DECAY": 0.9}
    trainer = Trainer(tiny.tiny_cfg(tmp_path / "second", **options))
    trainer.resume_or_load(resume=False)
    weights = load(tmp_path / "first/model_final.pth")["model"]
    for model in (trainer.model, trainer.final_model):
        assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)


def test_a_run_resumed_without_average_trains_on_what_was_trained(shapes_root, tmp_path):
    averaged = tiny.tiny_cfg(tmp_path / "run", SOLVER__EMA_DECAY=0.9, SOLVER__MAX_ITER=2)
    tiny.run_here(averaged)
    trainer = Trainer(tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=3))
    trainer.resume_or_load(resume=True)
    trained = load(tmp_path / "run/model_final.pth")["trainer"]["trained"]
    assert all(torch.equal(trainer.model.state_dict()[name], trained[name]) for name in trained)
