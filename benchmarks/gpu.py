"""All that needs a GPU, in ten minutes: its tests, then its benchmarks, and one report.

    python -m benchmarks.gpu FOLDER [--minutes 9.5] [--only tests criterion]

Parts run one after the other in processes of their own. Each has a time limit, and none runs beyond
the limit of all; a part that fails or runs too long does not stop the others. The report,
FOLDER/report.md and FOLDER/report.json, is written anew after every part; FOLDER/log.txt has
everything that was printed.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.report import ROOT

LINES = 15  # of a part's output that are shown; of one that failed as many times four


@dataclass(frozen=True)
class Part:
    """A command with a time limit.

    Attributes:
        name: of the part.
        seconds: its limit.
        command: arguments of Python.
    """

    name: str
    seconds: float
    command: Sequence[str]


def benchmark(name: str, seconds: float, command: str) -> Part:
    module, *options = command.split()
    options += ["--device", "cuda", "--no-growth", "--rounds", "10"]
    return Part(name, seconds, ["-m", f"benchmarks.{module}", *options])


# Alone, so that no time goes into importing the others: with the mark, or the fixture that has it.
TESTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").rglob("test_*.py")
    if re.search(r"mark\.gpu|def \w+\([^)]*\bdevice\b", path.read_text())
)
# What matters most comes first, in case that time runs out.
PARTS = [
    Part("tests", 170, ["-m", "pytest", "-m", "gpu", "-n", "8", "--durations=5", *TESTS]),
    benchmark("training step, R50", 70, "training_step --images 8"),
    benchmark("training step, Swin-T", 70, "training_step --images 8 --backbone swin"),
    benchmark("training step, Mask2Former R50", 70, "training_step --images 8 --model mask2former"),
    benchmark("deformable attention", 40, "deformable_attention --images 8"),
    benchmark("criterion", 60, "criterion --compiled"),
    benchmark("inference, R50", 70, "model_inference"),
    benchmark("inference, Mask2Former R50", 70, "model_inference --model mask2former"),
    Part(
        "images a second",
        60,
        ["-m", "benchmarks.family", "--device", "cuda", "--precision", "bfloat16"],
    ),
    benchmark("post-processing", 60, "postprocessing"),
    benchmark("compiled training step, R50", 110, "training_step --images 8 --compiled"),
    benchmark(
        "compiled training step, Swin-T", 110, "training_step --images 8 --compiled --backbone swin"
    ),
]


def run_part(part: Part, limit: float, output: Path) -> dict[str, Any]:
    """Run a part and say how it ended.

    Args:
        limit: seconds that are left.
        output: folder for the part's tables.

    Returns:
        name, command, `status` ("done", "failed", "out of time" or "not started"), seconds, the
        text that it printed, and what the benchmark found, if it is one.
    """
    found: dict[str, Any] = {"name": part.name, "command": " ".join(["python", *part.command])}
    if limit < 5:
        return {**found, "status": "not started", "seconds": 0.0, "text": ""}
    environment = {
        **os.environ,
        "BENCHMARKS_OUTPUT": str(output),
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "done" if process.wait(min(part.seconds, limit)) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                # Also what it has started: compilers, test processes.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        text = log.read()
    found |= {"status": status, "seconds": round(time.perf_counter() - start, 1), "text": text}
    for path in output.glob("*.json"):
        found["found"] = json.loads(path.read_text())
        found["table"] = path.with_suffix(".md").read_text()
    return found


def run(parts: Sequence[Part], folder: Path, minutes: float) -> list[dict[str, Any]]:
    """Run the parts within so many minutes; writes the report and prints as it goes."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + 60 * minutes
    ended: list[dict[str, Any]] = []
    for part in parts:
        print(f"== {part.name}: python {' '.join(part.command)}", flush=True)
        with tempfile.TemporaryDirectory() as output:
            ended.append(run_part(part, end - time.perf_counter(), Path(output)))
        last = ended[-1]
        print(_tail(last))
        print(f"== {part.name}: {last['status']}, {last['seconds']} s", flush=True)
        write_report(ended, folder)
    return ended


def _tail(part: dict[str, Any]) -> str:
    if "table" in part:
        return part["table"]
    lines = LINES if part["status"] == "done" else 4 * LINES
    return "\n".join(part["text"].splitlines()[-lines:])


def write_report(ended: Sequence[dict[str, Any]], folder: Path) -> None:
    """The report as a page and as JSON, and the log."""
    device = _device()
    rows = [f"| {p['name']} | {p['status']} | {p['seconds']} s | `{p['command']}` |" for p in ended]
    page = [f"# GPU report\n\n{device}.\n\n| part | | time | command |\n| --- | --- | --- | --- |"]
    page[0] += "\n" + "\n".join(rows)
    for part in ended:
        text = _tail(part) if "table" in part else f"```\n{_tail(part)}\n```"
        page.append(f"## {part['name']}\n\n{text}")
    (folder / "report.md").write_text("\n\n".join(page) + "\n")
    kept = [{k: v for k, v in part.items() if k not in ("text", "table")} for part in ended]
    (folder / "report.json").write_text(json.dumps({"device": device, "parts": kept}, indent=1))
    logs = (f"== {part['name']}\n{part['text']}" for part in ended)
    (folder / "log.txt").write_text("\n".join(logs))


def _device() -> str:
    try:
        return machine("cuda")
    except (RuntimeError, AssertionError):  # PyTorch was built without CUDA, or there is no GPU
        return f"no GPU; {machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the report goes")
    parser.add_argument("--minutes", type=float, default=9.5, help="limit of all; default: 9.5")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose name begins so")
    args = parser.parse_args()
    parts = [p for p in PARTS if not args.only or p.name.startswith(tuple(args.only))]
    ended = run(parts, args.folder, args.minutes)
    sys.exit(any(part["status"] != "done" for part in ended))


if __name__ == "__main__":
    main()
