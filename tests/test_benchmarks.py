"""The benchmarks run, and check that their contenders agree; what they measure is not tested."""

import runpy
import sys

import pytest

import benchmarks.report
from benchmarks.__main__ import COMMANDS
from tests.compiler import CAN_COMPILE


@pytest.mark.parametrize("command", COMMANDS)
def test_it_runs_and_its_contenders_agree(command, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.report, "OUTPUT", tmp_path)
    name, *options = command.split()
    if name == "criterion" and not CAN_COMPILE:
        pytest.skip("there is no C++ compiler with Python's headers")
    monkeypatch.setattr(sys, "argv", [name, *options, "--rounds", "1", "--quick"])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    (table,) = tmp_path.glob("*.md")
    assert f"`python -m benchmarks.{command} --rounds 1 --quick`" in table.read_text()
