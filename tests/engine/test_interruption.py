"""Signals: to a trainer in this process, and to real processes."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase

from mask_former.engine.errors import reported_errors
from mask_former.engine.interruption import EXIT_CODE, Interrupted, asked, noted_signals
from tests import forks
from tests.engine import tiny
from tests.engine.toy import (
    ToyEvaluator,
    ToyTrainer,
    dataset,  # noqa: F401  (a fixture)
    toy_cfg,
    train,
)

SIGNALS = ["SIGINT", "SIGTERM", "SIGUSR1"]


class Signal(HookBase):
    """Sends this process a signal in the middle of an iteration."""

    def __init__(self, iteration, name):
        self._iteration = iteration
        self._name = name

    def after_backward(self):
        if self.trainer.iter == self._iteration:
            os.kill(os.getpid(), signal.Signals[self._name])


def interrupt(cfg, name, iteration):
    trainer = ToyTrainer(cfg)
    trainer.register_hooks([Signal(iteration, name)])
    trainer.resume_or_load(resume=False)
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    assert trainer.last_results == {}
    return str(stop.value)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_keeps_a_checkpoint_from_which_training_goes_on_bit_for_bit(tmp_path, name):
    handlers = [signal.getsignal(signal.Signals[n]) for n in SIGNALS]
    straight, *_ = train(toy_cfg(tmp_path / "straight"))
    cfg = toy_cfg(tmp_path / "run")
    message = interrupt(cfg, name, iteration=1)
    assert name in message and "--resume" in message
    assert "2 of 4 iterations" in message and "model_0000001.pth" in message
    assert [signal.getsignal(signal.Signals[n]) for n in SIGNALS] == handlers
    resumed, *_ = train(cfg, resume=True)
    assert resumed.start_iter == 2
    assert torch.equal(resumed.model.w, straight.model.w)
    states = (trainer.optimizer.state_dict()["state"] for trainer in (resumed, straight))
    torch.testing.assert_close(*states, rtol=0, atol=0)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines]
    assert iterations == sorted(set(iterations))


@pytest.mark.parametrize(("iteration", "kept"), [(1, "model_0000001.pth"), (3, "model_final.pth")])
def test_a_checkpoint_that_is_due_is_written_once(tmp_path, iteration, kept, caplog):
    with caplog.at_level("INFO"):
        message = interrupt(toy_cfg(tmp_path, CHECKPOINT_PERIOD=4), "SIGTERM", iteration)
    assert kept in message
    written = [r.message for r in caplog.records if r.message.startswith("Saving checkpoint")]
    assert sum(kept in text for text in written) == 1


@pytest.mark.parametrize(
    ("period", "iterations", "kept"), [(2, 2, "model_0000001.pth"), (4, 4, "model_final.pth")]
)
def test_a_signal_ends_an_evaluation_without_metrics_of_half_of_the_images(
    tmp_path, monkeypatch, period, iterations, kept
):
    seen = []

    def process(self, inputs, outputs):
        seen.append(inputs)
        os.kill(os.getpid(), signal.SIGUSR1)

    def evaluate(self):
        raise AssertionError("of a part of the images")

    monkeypatch.setattr(ToyEvaluator, "process", process)
    monkeypatch.setattr(ToyEvaluator, "evaluate", evaluate)
    cfg = toy_cfg(tmp_path / "run")
    cfg.TEST.EVAL_PERIOD = period
    trainer = ToyTrainer(cfg)
    with pytest.raises(Interrupted, match=f"SIGUSR1.*{iterations} of 4 iterations.*{kept}"):
        trainer.train()
    assert len(seen) == 1
    assert (tmp_path / "run" / "last_checkpoint").read_text() == kept


def test_a_signal_after_the_last_iteration_waits_for_the_last_word(tmp_path, caplog):
    """As when the launcher of two processes was killed, which they notice one after the other."""

    class Again(HookBase):
        def after_train(self):
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = ToyTrainer(toy_cfg(tmp_path))
    trainer.register_hooks([Signal(1, "SIGUSR1"), Again()])
    with pytest.raises(Interrupted, match="SIGUSR1 ended the training. 2 of 4"):
        trainer.train()
    assert "SIGUSR1 ended the training. 2 of 4" in caplog.text


def test_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise Interrupted("what is kept")
    assert stop.value.code == EXIT_CODE == 75
    assert capsys.readouterr().err == "what is kept\n"
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noted_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert asked() is None
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert asked() is signal.SIGTERM
        assert asked() is None
    finally:
        signal.signal(signal.SIGINT, before)


def press_ctrl_c_twice():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    with noted_signals():
        os.kill(os.getpid(), signal.SIGINT)
        print(asked().name, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("still there")


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    code, output = forks.run(tmp_path / "output", press_ctrl_c_twice)
    assert code == -signal.SIGINT
    assert output.endswith("Ctrl-C ends at once.\nSIGINT\n")


@pytest.fixture
def start():
    """`tiny.start`, of processes that do not outlive a test that fails."""
    started = []

    def start(*args, **options):
        started.append(tiny.start(*args, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(path, process):
    """Until a file is there, which a training writes."""
    while not path.exists():
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.05)


def load(folder):
    name = (folder / "last_checkpoint").read_text()
    return torch.load(folder / name, weights_only=True)


def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_iteration(
    shapes_root, tmp_path, start
):
    cfg = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=1000, SOLVER__CHECKPOINT_PERIOD=500)
    process = start(cfg, "--num-gpus", "2", "--kill-after", "1", "--by", "SIGTERM")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == EXIT_CODE, output.decode()
    assert b"Traceback" not in output
    # It was sent after iteration 1 was recorded: all know of it in the next.
    assert b"SIGTERM ended the training. 3 of 1000 iterations" in output
    trainer = load(tmp_path / "run")["trainer"]
    assert trainer["iteration"] == 2
    assert len(trainer["hooks"]["RandomState"]["states"]) == 2


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_the_processes_end_with_the_launcher(shapes_root, tmp_path, start, name):
    """Started as in the background of a script, and signalled alone. Its processes have its output
    open, which ends only when all of them have."""
    cfg = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=3000, SOLVER__CHECKPOINT_PERIOD=1)
    process = start(
        cfg, "--num-gpus", "2", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    folder = Path(cfg.OUTPUT_DIR)
    wait_for(folder / "last_checkpoint", process)
    process.send_signal(signal.SIGINT)  # has no effect
    process.send_signal(signal.Signals[name])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == (EXIT_CODE if name == "SIGTERM" else -signal.SIGKILL)
    assert b"SIGTERM ended the training." in output and b"Traceback" not in output
    last = load(folder)["trainer"]["iteration"]
    assert f"{last + 1} of 3000 iterations are kept".encode() in output


def test_workers_leave_signals_to_their_process(shapes_root, tmp_path, start):
    """Ctrl-C in a terminal, and Slurm's signals, reach them, too."""
    cfg = tiny.tiny_cfg(
        tmp_path / "run",
        SOLVER__MAX_ITER=3000,
        SOLVER__CHECKPOINT_PERIOD=1,
        DATALOADER__NUM_WORKERS=1,
    )
    process = start(cfg, start_new_session=True)
    wait_for(tmp_path / "run" / "last_checkpoint", process)
    for name in SIGNALS:
        os.killpg(process.pid, signal.Signals[name])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == EXIT_CODE, output.decode()
    assert b"Traceback" not in output
