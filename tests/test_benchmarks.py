"""The benchmarks run, and check that their contenders agree; what they measure is not tested."""

import json
import runpy
import sys

import pytest

import benchmarks.report
from benchmarks.__main__ import COMMANDS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a benchmark; gives the JSON of its results."""
    monkeypatch.setattr(benchmarks.report, "OUTPUT", tmp_path)

    def run(command):
        monkeypatch.setattr(sys, "argv", command.split())
        runpy.run_module(f"benchmarks.{command.split()[0]}", run_name="__main__")
        (path,) = tmp_path.glob("*.json")
        return json.loads(path.read_text())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_it_runs_and_its_contenders_agree(command, run):
    found = run(f"{command} --rounds 1 --quick")
    assert found["command"] == f"python -m benchmarks.{command} --rounds 1 --quick"
    assert len({row["contender"] for row in found["results"]}) > 1
