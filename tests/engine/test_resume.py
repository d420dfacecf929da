import json
import signal
from pathlib import Path

import pytest
import torch

from mask_former import engine
from mask_former.engine.poly_schedule import WarmupPolyLRToEnd
from mask_former.engine.resume import warn_of_another_rate
from tests.engine import tiny


def load(path):
    return torch.load(path, weights_only=True)


def iterations_of(metrics_json):
    return [json.loads(line)["iteration"] for line in metrics_json.read_text().splitlines()]


def test_a_killed_run_continues_as_if_nothing_had_happened(shapes_root, tmp_path):
    # Checkpoints and evaluations after iterations 2 and 5; killed after iteration 4.
    straight = tiny.tiny_cfg(tmp_path / "straight", TEST__EVAL_PERIOD=3)
    killed = tiny.tiny_cfg(tmp_path / "killed", TEST__EVAL_PERIOD=3)
    assert killed.MODEL.MASK_FORMER.DROPOUT > 0
    process = tiny.start(killed, "--kill-after", "4")
    expected = tiny.run_here(straight)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output.decode()

    folder = Path(killed.OUTPUT_DIR)
    assert (folder / "last_checkpoint").read_text() == "model_0000002.pth"
    # Pretend that the evaluation before the kill was better than what comes.
    best = load(folder / "model_best.pth")
    torch.save(best | {"value": 99.0}, folder / "model_best.pth")
    record = tiny.run_here(killed, "--resume")

    assert record["losses"] == {k: v for k, v in expected["losses"].items() if int(k) >= 3}
    ours, theirs = (load(Path(cfg.OUTPUT_DIR) / "model_final.pth") for cfg in (killed, straight))
    for name, weight in theirs["model"].items():
        assert torch.equal(weight, ours["model"][name]), name
    ours, theirs = ours["trainer"], theirs["trainer"]
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    for found, expected_part in (
        (ours["optimizer"]["state"], theirs["optimizer"]["state"]),
        (ours["step"], theirs["step"]),
        (ours["iteration"], theirs["iteration"]),
    ):
        torch.testing.assert_close(found, expected_part, rtol=0, atol=0)
    assert ours["hooks"]["LRScheduler"] == theirs["hooks"]["LRScheduler"]
    assert record["metrics"] == expected["metrics"]
    assert load(folder / "model_best.pth")["value"] == 99.0
    iterations = iterations_of(folder / "metrics.json")
    assert iterations == sorted(set(iterations)) and iterations[-2:] == [5, 6]


def test_a_resumed_run_may_be_longer(shapes_root, tmp_path):
    short = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=2, DATASETS__TEST=())
    tiny.run_here(short)
    longer = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=4, DATASETS__TEST=())
    record = tiny.run_here(longer, "--resume")
    assert list(record["losses"]) == ["2", "3"]
    # Poly schedule, power 0.9, of 4 iterations: what iteration 3 was trained with.
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["lr"] == pytest.approx(1e-3 * (1 - 3 / 4) ** 0.9)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


def test_another_learning_rate_is_told(caplog):
    """As after another SOLVER.MAX_ITER."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kept = WarmupPolyLRToEnd(optimizer, 4, warmup_iters=0, power=1.0)
    optimizer.step()
    kept.step()
    warn_of_another_rate(kept)
    assert not caplog.records
    kept.max_iters = 2
    warn_of_another_rate(kept)
    assert "was 0.75 in the checkpoint and goes on at 0.5: SOLVER.MAX_ITER" in caplog.text


def test_nothing_is_left_of_a_resumed_run_that_was_made_shorter(shapes_root, tmp_path):
    tiny.run_here(tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=3, DATASETS__TEST=()))
    shorter = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=1, DATASETS__TEST=())
    assert tiny.run_here(shorter, "--resume")["losses"] == {}


def test_resuming_a_finished_run_only_evaluates(shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=1)
    expected = tiny.run_here(cfg)
    record = tiny.run_here(cfg, "--resume")
    assert record["losses"] == {}
    assert record["metrics"] == expected["metrics"]


def weights_only(checkpoint):
    del checkpoint["trainer"]


def of_another_trainer(checkpoint):
    checkpoint["trainer"] = {"iteration": 0, "hooks": {}, "_trainer": {}}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (weights_only, {}, "model_final.pth holds weights only.*MODEL.WEIGHTS"),
        (of_another_trainer, {}, "not written by this trainer.*MODEL.WEIGHTS"),
        (None, {"SOLVER__OPTIMIZER": "SGD"}, "SOLVER.OPTIMIZER is another one"),
        (None, {"SOLVER__BACKBONE_MULTIPLIER": 1.0}, "BACKBONE_MULTIPLIER"),
    ],
)
def test_what_cannot_be_resumed(shapes_root, tmp_path, change, options, message):
    folder = tmp_path / "run"
    tiny.run_here(tiny.tiny_cfg(folder, SOLVER__MAX_ITER=1, DATASETS__TEST=()))
    if change:
        checkpoint = load(folder / "model_final.pth")
        change(checkpoint)
        torch.save(checkpoint, folder / "model_final.pth")
    cfg = tiny.tiny_cfg(folder, SOLVER__MAX_ITER=2, DATASETS__TEST=(), **options)
    with pytest.raises(ValueError, match=message):
        tiny.run_here(cfg, "--resume")


def test_averages_are_not_given_to_other_weights(shapes_root, tmp_path):
    """Of groups that are as large as before, and hold others."""
    options = {"DATASETS__TEST": (), "SOLVER__MAX_ITER": 1}
    first, second = ([[rf"mask_embed\.layers\.{i}\.", 0.5]] for i in (0, 1))
    tiny.run_here(tiny.tiny_cfg(tmp_path / "run", SOLVER__LR_FACTORS=first, **options))
    options["SOLVER__MAX_ITER"] = 2
    other = tiny.tiny_cfg(tmp_path / "run", SOLVER__LR_FACTORS=second, **options)
    with pytest.raises(ValueError, match="SOLVER.LR_FACTORS"):
        tiny.run_here(other, "--resume")
    same = tiny.tiny_cfg(tmp_path / "run", SOLVER__LR_FACTORS=first, **options)
    tiny.run_here(same, "--resume")


def test_a_run_is_not_resumed_with_a_batch_scaled_to_other_processes(shapes_root, tmp_path):
    options = {"DATASETS__TEST": (), "SOLVER__MAX_ITER": 1}
    tiny.run_here(tiny.tiny_cfg(tmp_path / "run", SOLVER__REFERENCE_WORLD_SIZE=1, **options))
    cfg = tiny.tiny_cfg(tmp_path / "run", SOLVER__REFERENCE_WORLD_SIZE=2, **options)
    with pytest.raises(ValueError, match="IMS_PER_BATCH was 2 .* is 1 .*as many processes"):
        tiny.run_here(cfg, "--resume")


def test_resume_without_a_checkpoint_starts_anew(shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=1, DATASETS__TEST=())
    assert list(tiny.run_here(cfg, "--resume")["losses"]) == ["0"]


def test_what_other_samples_change_is_said(shapes_root, tmp_path, caplog):
    first = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=3, DATASETS__TEST=())
    tiny.run_here(first)
    same = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=3, DATASETS__TEST=())
    other = tiny.tiny_cfg(
        tmp_path / "run",
        SOLVER__MAX_ITER=3,
        DATASETS__TEST=(),
        SOLVER__IMS_PER_BATCH=4,
        INPUT__MIN_SIZE_TRAIN=(64,),
        INPUT__MIN_SIZE_TEST=32,
    )
    said = []
    for cfg in (same, other):
        trainer = engine.Trainer(cfg)
        caplog.clear()
        trainer.resume_or_load(resume=True)
        said.append([r.getMessage() for r in caplog.records if r.levelname == "WARNING"])
    assert said[0] == []
    batch, rest = said[1]
    # 3 iterations of 2 images are done, and it goes on after 3 iterations of 4.
    assert "IMS_PER_BATCH was 2 in the checkpoint and is 4" in batch
    assert "number 12, not 6: 6 are skipped" in batch and "2 times as large" in batch
    assert "INPUT.MIN_SIZE_TRAIN was [64, 96], is [64]" in rest and "TEST" not in rest
