"""The comparison of the models: its schedules, its runs, its tables. One tiny training."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.comparison_report import first_reached, spread, value_at
from mask_former.errors import UserError

SECONDS = {"maskformer": 0.5, "per_pixel_baseline": 0.25}  # of an iteration, and 2 of the first


def args(folder, **others):
    given = {"models": list(SECONDS), "seeds": 2, "minutes": 1.0, "evaluations": 4, "jobs": 2}
    return argparse.Namespace(**{**given, "output": folder, "opts": [], **others})


def fake_run(cfg):
    """What is found by a run that gets better with its iterations and its seed."""
    model, seed = Path(cfg.OUTPUT_DIR).name.rsplit("-", 1)
    points = []
    period, last = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    for i in [*range(period, last, period), last]:
        metrics = {"mIoU": 80 * i / last + cfg.SEED}
        if model == "maskformer":
            metrics |= {"PQ": 76 * i / last + cfg.SEED, "PQ things": 50.0, "PQ stuff": 90.0}
        points.append({"iterations": i, "seconds": 2 + SECONDS[model] * (i - 1), **metrics})
        assert cfg.DATASETS.TEST or "calibration" in cfg.OUTPUT_DIR
    found = {"points": points, "precision": "float32", "inference seconds": 0.01}
    return {**found, "batch size": 8, "parameters": 2_500_000, "multiply-adds": 320_000_000}


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(comparison, "run", fake_run)
    monkeypatch.setattr(comparison, "make_shapes", lambda: None)


def test_as_many_iterations_as_fit(faked, tmp_path):
    runs = comparison.compare(args(tmp_path))
    last = {m: [run["points"][-1]["iterations"] for run in found] for m, found in runs.items()}
    assert last == {"maskformer": [120, 120], "per_pixel_baseline": [240, 240]}
    assert [point["iterations"] for point in runs["maskformer"][0]["points"]] == [30, 60, 90, 120]


def test_the_schedule_follows_the_iterations(tmp_path):
    cfg = comparison.training("eomt", 2, 150, args(tmp_path))
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED, cfg.SOLVER.CHECKPOINT_PERIOD) == (150, 2, 150)
    whole = comparison.config("eomt", [], tmp_path)
    factor = 150 / whole.SOLVER.MAX_ITER
    assert round(factor * whole.SOLVER.WARMUP_ITERS) == cfg.SOLVER.WARMUP_ITERS > 0
    ends = [round(factor * end) for end in whole.MODEL.EOMT.ANNEALING_END]
    assert ends == cfg.MODEL.EOMT.ANNEALING_END and max(ends) < 150
    assert cfg.TEST.EVAL_PERIOD == 38  # the fourth evaluation is the one at the end


def test_the_report(faked, tmp_path, monkeypatch, capsys):
    document = tmp_path / "docs/ABLATION.md"
    document.parent.mkdir()
    document.write_text("# Page\n\n<!-- comparison -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(comparison, "DOCUMENT", document)
    flags = ["--models", *SECONDS, "--seeds", "2", "--minutes", "1", "--output", str(tmp_path)]
    comparison.main(flags)
    assert "old" in document.read_text()
    comparison.main([*flags, "--document"])
    lines = document.read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    # 120 iterations in 2 + 119 / 2 seconds; 240 in 2 + 239 / 4.
    mask_former = ["MaskFormer", "80.5 ± 0.7", "76.5 ± 0.7", "–"]
    assert mask_former in [row[:4] for row in rows]
    assert ["2.5 M", "0.32 G", "120", "15.6 ± 0.0", "10.0 ± 0.0"] in [row[-5:] for row in rows]
    assert ["240", "31.1 ± 0.0", "10.0 ± 0.0"] in [row[-3:] for row in rows]
    assert ["per-pixel baseline", "80.5 ± 0.7", "–", "–"] in [row[:4] for row in rows]
    # MaskFormer's runs end after 61.5 seconds, and so the others are looked at then.
    assert "### After 1.0 minutes" in lines
    assert ["per-pixel baseline", "80.2 ± 0.7", "–", "–"] in rows
    assert ["per-pixel baseline", "1", "81.0", "–", "–"] in [row[:5] for row in rows]
    assert (document.parent / "images/comparison.png").stat().st_size > 10_000
    assert "old" not in lines and "MaskFormer" in capsys.readouterr().out


def test_between_evaluations():
    points = [
        {"iterations": 10, "seconds": 30.0, "PQ": 60.0},
        {"iterations": 20, "seconds": 50.0, "PQ": 80.0},
        {"iterations": 30, "seconds": 70.0, "PQ": 75.0},
    ]
    assert first_reached(points, 70) == {"iterations": 15, "seconds": 40.0}
    assert first_reached(points, 30) == {"iterations": 5, "seconds": 15.0}
    assert first_reached(points, 81) is None
    assert value_at(points, "PQ", 45.0) == 75 and value_at(points, "PQ", 65.0) == 76.25
    assert value_at(points, "AP", 45.0) is None


def test_mean_and_standard_deviation():
    assert spread([72.0, 74.0]) == "73.0 ± 1.4" and spread([72.0]) == "72.0"
    assert spread([72.0, None]) == "in 1 of 2 runs" and spread([None]) == "–"


def test_a_training(shapes_root, tmp_path):
    """In its own process; what it finds is read, and it is not done again."""
    opts = ["SOLVER.IMS_PER_BATCH", "2", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]
    cfg = comparison.training("per_pixel_baseline", 0, 3, args(tmp_path, opts=opts, evaluations=2))
    found = comparison.run(cfg)
    first, last = found["points"]
    assert (first["iterations"], last["iterations"]) == (2, 3)
    assert 0 < first["seconds"] < last["seconds"] and found["inference seconds"] > 0
    assert found["batch size"] == 2 and found["parameters"] > 1e6 < found["multiply-adds"]
    assert 0 <= last["mIoU"] <= 100 and "PQ" not in last

    path = Path(cfg.OUTPUT_DIR, comparison.FOUND)
    path.write_text(json.dumps({**found, "precision": "kept"}))
    assert comparison.run(cfg)["precision"] == "kept"
    cfg.SOLVER.BASE_LR = 0.1
    with pytest.raises(UserError, match="another configuration"):
        comparison.run(cfg)


def test_a_training_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(UserError, match="failed; see .*output.txt"):
        comparison.run(comparison.training("per_pixel_baseline", 0, 3, args(tmp_path)))
