"""The benchmarks run, and check that their contenders agree; what they measure is not tested."""

import json
import logging
import re
import runpy
import sys

import pytest

import benchmarks.report
from benchmarks import gpu
from benchmarks.__main__ import COMMANDS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a benchmark; gives the JSON of its results. Some switch logging off, for good."""
    monkeypatch.setattr(benchmarks.report, "OUTPUT", tmp_path)

    def run(command):
        monkeypatch.setattr(sys, "argv", command.split())
        runpy.run_module(f"benchmarks.{command.split()[0]}", run_name="__main__")
        (path,) = tmp_path.glob("*.json")
        return json.loads(path.read_text())

    yield run
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_runs_and_its_contenders_agree(command, run):
    found = run(f"{command} --rounds 1 --quick")
    assert found["command"] == f"python -m benchmarks.{command} --rounds 1 --quick"
    assert len({row["contender"] for row in found["results"]}) > 1


def test_the_family(run):
    remarks = run("family --rounds 1 --quick")["remarks"]
    assert len(remarks) == 7
    for remark in remarks:
        numbers = re.fullmatch(r".*: (.+) images a second, (.+) M parameters, (.+) G .*", remark)
        assert float(numbers[1]) > 0 and float(numbers[2]) > 0


def test_another_checkout(run):
    """Here the same, in two processes: the same results."""
    found = run("baseline . --cases training-R50 panoptic-R50 --rounds 1 --quick")["results"]
    assert [row["contender"] for row in found] == ["ours", "."] * 2
    training, panoptic = (row["difference from ours"] for row in found[1::2])
    assert training == "loss 0e+00, gradient norm 0e+00" and panoptic == "0% of pixels"
    assert all(row["peak bytes"] > 0 for row in found)


def test_parts_of_the_gpu_run_do_not_stop_each_other(tmp_path):
    result = "import os, json; open(os.environ['BENCHMARKS_OUTPUT'] + '/a.json', 'w').write('[7]')"
    table = "; open(os.environ['BENCHMARKS_OUTPUT'] + '/a.md', 'w').write('a table')"
    parts = [
        gpu.Part("fails", 60, ["-c", "print('why'); 1 / 0"]),
        gpu.Part("hangs", 0.5, ["-c", "import time; time.sleep(60)"]),
        gpu.Part("works", 60, ["-c", result + table]),
    ]
    gpu.run(parts, tmp_path, minutes=1)
    found = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert [part["status"] for part in found] == ["failed", "out of time", "done"]
    assert found[2]["found"] == [7]
    page = (tmp_path / "report.md").read_text()
    assert "ZeroDivisionError" in page and "a table" in page
    assert "why" in (tmp_path / "log.txt").read_text()


def test_the_gpu_run_ends_in_time(tmp_path):
    (part,) = gpu.run([gpu.Part("works", 60, ["-c", "pass"])], tmp_path, minutes=0.05)
    assert part["status"] == "not started"
