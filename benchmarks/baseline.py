"""Ours beside other checkouts of it: whole training steps and whole inference.

    python -m benchmarks.baseline CHECKOUT [KEY VALUE ...] [--and CHECKOUT [KEY VALUE ...]]

Says whether a change made anything slower. Every checkout has a process of its own, with the same
weights, images, number of threads and allocator setting; they take turns, and what counts is the
ratio of two of them within a round. Their results are compared, too.

    python -m benchmarks.baseline ../before --cases training-R50 --rounds 9
    python -m benchmarks.baseline . MODEL.COMPILE True      # keys may be all that differs
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import (
    TEST,
    differing_pixels,
    least_score,
    test_keys,
    weights_of_different_queries,
)
from benchmarks.measure import Timing, compare
from benchmarks.models import RECIPES, SMALL, WITHOUT_CHANCE, make_batch, precision_keys
from benchmarks.report import ROOT, Result, report

OURS = "ours"
WORKER = Path(__file__).with_name("worker.py")
# glibc's own names of what `mask_former.engine.host_memory` sets.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        recipe: a name of `RECIPES`.
        size: height and width of the images.
        images: of a batch.
        training: a whole training step; otherwise inference.
        options: other config keys and values.
    """

    recipe: str
    size: tuple[int, int]
    images: int = 1
    training: bool = False
    options: tuple[Any, ...] = ()

    def inputs(self, device: str, precision: str) -> dict[str, Any]:
        """What every worker gets, of tensors and plain values."""
        keys = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *WITHOUT_CHANCE, *self.options]
        keys += precision_keys(precision)
        weights = weights_of_different_queries(self.recipe, device, self.options)
        if not self.training:
            keys += test_keys(self.recipe)
        batch = make_batch(self.size, images=self.images, segments=10, classes=100)
        if not self.training and self.recipe.startswith("panoptic"):
            threshold = least_score(self.recipe, device, batch[0]["image"], self.options)
            keys += [TEST + "OBJECT_MASK_THRESHOLD", threshold]
        return {
            "config": RECIPES[self.recipe],
            "keys": [str(key) for key in keys],
            "weights": weights,
            "training": self.training,
            "batch": [
                {
                    "image": x["image"],
                    "classes": x["instances"].gt_classes,
                    "masks": x["instances"].gt_masks.tensor,
                }
                for x in batch
            ],
        }


CASES = {
    "training-R50": Case("R50", (512, 512), images=2, training=True),
    "training-swin": Case("swin", (512, 512), images=2, training=True),
    "semantic-R50": Case("R50", (512, 512)),
    "panoptic-R50": Case("panoptic R50", (800, 1216)),
    "semantic-swin": Case("swin", (512, 512)),
    "panoptic-swin": Case("panoptic swin", (800, 1216)),
}
DEFAULT_CASES = ("training-R50", "training-swin", "semantic-R50", "panoptic-R50")


class Worker:
    """A checkout in a process of its own; a call runs it once there.

    Args:
        checkout: folder of the repository.
        inputs: file of `Case.inputs`.
        keys: config keys and values of this checkout alone.
        precision: float32, or what autocast takes.
    """

    def __init__(
        self, checkout: Path, inputs: Path, keys: Sequence[str], precision: str, kept: bool
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        environment |= KEEP_FREED_MEMORY if kept else {}
        arguments = {
            "inputs": str(inputs),
            "keys": list(keys),
            "precision": precision,
            "threads": torch.get_num_threads(),
        }
        # As code: started as a file, its folder would come before the checkout's modules.
        command = [sys.executable, "-c", WORKER.read_text(), json.dumps(arguments)]
        self.process = subprocess.Popen(
            command,
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        package = Path(self._reply()["package"])
        if not package.is_relative_to(checkout):
            raise SystemExit(f"{checkout} holds no mask_former: {package} was imported.")

    def __call__(self, **request: str) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A checkout's process ended with status {self.process.wait()}.")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def difference(case: Case, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str:
    """In words, of what the first run of two checkouts gave."""
    if not case.training:
        share = differing_pixels(theirs["map"], ours["map"], panoptic="panoptic" in case.recipe)
        return f"{100 * share:.2g}% of pixels"
    found = {name: ((theirs[name] - ours[name]) / ours[name]).abs().item() for name in ours}
    return ", ".join(f"{name} {value:.0e}" for name, value in found.items())


def measure(
    name: str, checkouts: dict[str, tuple[Path, list[str]]], args: argparse.Namespace
) -> Result:
    """One case in all checkouts, in turns."""
    case = CASES[name]
    if args.quick:
        case = replace(case, size=(64, 96), options=SMALL)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs.pt")
        torch.save(case.inputs(args.device, args.precision), inputs)
        workers: dict[str, Worker] = {}
        try:
            results = {}
            for checkout, (path, keys) in checkouts.items():
                worker = Worker(path, inputs, keys, args.precision, not args.default_allocator)
                workers[checkout] = worker
                saved = Path(folder, "result.pt")
                worker(save=str(saved))
                results[checkout] = torch.load(saved, weights_only=True)
            timings = compare(workers, rounds=args.rounds, warmup=1, memory=False)
            peaks = {n: worker(peak="")["peak_bytes"] for n, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    timings = {n: Timing(t.seconds, peaks[n]) for n, t in timings.items()}
    agreement = {n: difference(case, results[n], results[OURS]) for n in timings if n != OURS}
    allocator = "each returns freed memory" if args.default_allocator else "freed memory kept"
    description = f"{name}, {'x'.join(map(str, case.size))}, {args.precision}, {allocator}"
    return Result(description, OURS, timings, agreement)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", nargs="+", help="folder of a checkout, then keys and values")
    parser.add_argument(
        "--and", dest="others", nargs="+", action="append", default=[], help="one more checkout"
    )
    parser.add_argument("--keys", nargs="+", default=[], help="keys and values of this checkout")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=DEFAULT_CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--default-allocator", action="store_true", help="do not keep freed memory, in none of them"
    )
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    checkouts = {OURS: (ROOT, args.keys)}
    for path, *keys in (args.checkout, *args.others):
        checkouts[" ".join([path, *keys])] = (Path(path).resolve(), keys)
    results = [measure(name, checkouts, args) for name in args.cases]
    report("baseline", results, device=args.device)


if __name__ == "__main__":
    main()
