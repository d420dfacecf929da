"""Processes for tests: forks of one that has imported the package, and has done nothing else.

Importing PyTorch and Detectron2 takes longer than most of what is tested in processes.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def start(output: Path, function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Call a function in another process, in this working directory.

    Args:
        output: the file in which everything goes that the process prints.
        function: importable by name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.tiny"])
    process = context.Process(target=_call, args=(output, function, arguments))
    process.start()
    return process


def run(output: Path, function: Callable[..., Any], *arguments: Any) -> tuple[int | None, str]:
    """As `start`; gives the exit code and what was printed, when the process has ended."""
    process = start(output, function, *arguments)
    process.join()
    return process.exitcode, output.read_text()


def _call(output: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)
