"""The comparison's report, and how runs are resumed; nothing is trained."""

import json
import subprocess

import pytest

from mask_former.engine import load_config
from mask_former.errors import UserError
from tools import run_ablation
from tools.run_ablation import PAPER, VOID, order, report, run

RESULTS = {
    recipe: [{"mIoU": 10.0 * i + seed, "PQ^St": 50.0 - i} for seed in range(3)]
    for i, recipe in enumerate((*PAPER, VOID))
}


def test_order_is_by_the_mean():
    paper = {recipe: RESULTS[recipe] for recipe in PAPER}
    assert order(paper, "mIoU") == "(d) > (c) > (b) > (a)"
    assert order(paper, "PQ^St") == "(a) > (b) > (c) > (d)"


def test_report_gives_mean_and_standard_deviation():
    text = report(RESULTS, 1500)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["(c)", "MaskFormer, fixed matching", "21.0 ± 1.0", "48.0 ± 0.0"] in rows
    assert ["(b)", "2", "12.00", "49.00"] in rows
    assert "train for 1,500 iterations" in text and "over 3 seeds" in text
    assert "- mIoU: (d) > (c) > (b) > (a)\n- PQ^St: (a) > (b) > (c) > (d)\n" in text


class TestRun:
    @pytest.fixture
    def train(self, monkeypatch):
        """In place of train_net.py: evaluates once early, and after the last iteration."""
        calls = []

        def fake(command, **_):
            calls.append(command)
            opts = command[command.index("--config-file") + 2 :]
            cfg = load_config(command[command.index("--config-file") + 1], opts)
            with open(f"{cfg.OUTPUT_DIR}/config.yaml", "w") as file:
                file.write(cfg.dump())
            last = {"iteration": cfg.SOLVER.MAX_ITER, "sem_seg/mIoU": 61.0, "sem_seg/PQ_St": 52.0}
            early = {"iteration": 5, "sem_seg/mIoU": 1.0, "sem_seg/PQ_St": 1.0}
            lines = [{"iteration": 9, "total_loss": 1.0}, early, last][: 3 if self.succeeds else 2]
            with open(f"{cfg.OUTPUT_DIR}/metrics.json", "w") as file:
                file.write("\n".join(map(json.dumps, lines)) + '\n{"cut of')
            return subprocess.CompletedProcess(command, 0 if self.succeeds else 1)

        self.succeeds = True
        monkeypatch.setattr(run_ablation.subprocess, "run", fake)
        return calls

    def test_what_is_done_is_not_done_again(self, train, tmp_path):
        expected = {"mIoU": 61.0, "PQ^St": 52.0}
        assert [run(VOID, 1, 20, tmp_path / "run") for _ in range(2)] == [expected] * 2
        assert len(train) == 1
        command = train[0]
        assert "--resume" in command
        assert command[command.index("SEED") + 1] == "1"
        assert command[command.index("MODEL.MASK_FORMER.IGNORE_VOID") + 1] == "True"

    def test_a_run_that_failed_is_continued(self, train, tmp_path):
        self.succeeds = False
        with pytest.raises(UserError, match=r"maskformer_semantic failed; see .*output\.txt"):
            run(PAPER[3], 0, 20, tmp_path)
        self.succeeds = True
        assert run(PAPER[3], 0, 20, tmp_path)["mIoU"] == 61.0
        assert len(train) == 2

    def test_a_run_of_another_configuration_is_not_taken(self, train, tmp_path):
        run(PAPER[3], 0, 20, tmp_path)
        with pytest.raises(UserError, match="another configuration.*--output"):
            run(PAPER[2], 0, 20, tmp_path)
