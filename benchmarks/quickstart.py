"""MaskFormer and Mask2Former side by side: the quickstart's recipes over several seeds.

    python -m benchmarks.quickstart                                        # both, three seeds
    python -m benchmarks.quickstart --models maskformer --seeds 1 --stop   # minutes to PQ 70

Trains in turns and evaluates every few iterations until the target is reached, and at the end;
evaluations are not counted as time. Runs that are done are not done again. Without `--stop` the
table goes into docs/ABLATION.md. The machine should have nothing else to do.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate

import mask_former  # noqa: F401  (registers the components)
from benchmarks.measure import machine
from mask_former.data.datasets import make_shapes
from mask_former.engine import Trainer, launch, load_config
from tools.quickstart import RECIPES, processes
from tools.run_ablation import REPORT
from tools.sections import write_section

METRICS = {"PQ": "PQ", "PQ things": "PQ_th", "PQ stuff": "PQ_st"}
Point = dict[str, float]
"""Iterations and seconds of training, and the metrics then."""


class Reached(Exception):
    """The panoptic quality that was asked for."""


class TimedTrainer(Trainer):
    """Writes down the iterations, the seconds of training and the PQ at every evaluation.

    Args:
        target: there is no evaluation between the one that reaches this PQ and the last.
        stop: do not train beyond it.
    """

    def __init__(self, cfg: CfgNode, *, target: float, stop: bool) -> None:
        super().__init__(cfg)
        self.target, self.stop = target, stop
        self.points: list[Point] = []

    def train(self) -> dict[str, Any]:
        self.started, self.evaluating = time.perf_counter(), 0.0
        return super().train()

    def _evaluate(self) -> dict[str, Any]:
        reached = bool(self.points) and self.points[-1]["PQ"] >= self.target
        if reached and self.iter + 1 < self.max_iter:
            return self.last_results
        seconds = time.perf_counter() - self.started - self.evaluating
        iterations = min(self.iter + 1, self.max_iter)  # Detectron2 evaluates last after the loop
        results = super()._evaluate()
        found = results["panoptic_seg"] if results else {}
        found = comm.all_gather({name: found.get(key) for name, key in METRICS.items()})[0]
        self.points.append({"iterations": iterations, "seconds": seconds, **found})
        self.evaluating = time.perf_counter() - self.started - seconds
        if comm.is_main_process():
            pq = found["PQ"]
            print(f"{iterations:5} iterations  {seconds:6.1f} s  PQ {pq:.1f}", flush=True)
        if self.stop and found["PQ"] >= self.target:
            raise Reached
        return results


def train(cfg: CfgNode, args: argparse.Namespace) -> None:
    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = TimedTrainer(cfg, target=args.target, stop=args.stop)
    trainer.resume_or_load(resume=False)
    with contextlib.suppress(Reached):
        trainer.train()
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "points.json").write_text(json.dumps(trainer.points))


def run(model: str, seed: int, args: argparse.Namespace) -> list[Point]:
    """Train, unless that is done; what was found at the evaluations."""
    folder = args.output / f"{model}-{seed}"
    points = folder / "points.json"
    if not points.exists():
        print(f"{model}, seed {seed}", flush=True)
        opts = ["SEED", str(seed), "TEST.EVAL_PERIOD", str(args.every), "OUTPUT_DIR", str(folder)]
        cfg = load_config(str(RECIPES[model]), [*opts, *args.opts])
        launch_args = processes(cfg)
        launch_args.target, launch_args.stop = args.target, args.stop
        launch(train, cfg, launch_args)
    return json.loads(points.read_text())


def report(runs: Mapping[str, Sequence[list[Point]]], target: float) -> str:
    """The section as Markdown, from the evaluations of every run of each model."""
    seeds = max(map(len, runs.values()))
    rows, every = [], []
    for model, of_model in runs.items():
        found = [summary(points, target) for points in of_model]
        columns = {name: [x[name] for x in found] for name in found[0]}
        rows.append({"": model, **{name: spread(values) for name, values in columns.items()}})
        every += [{"": model, "seed": seed, **x} for seed, x in enumerate(found)]
    table = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    table_of_runs = tabulate(every, headers="keys", tablefmt="pipe", floatfmt=".1f")
    return f"""The quickstart's recipes: `configs/shapes/{RECIPES["maskformer"].name}` and
`{RECIPES["mask2former"].name}`, which share backbone, data, optimizer and about the minutes of
training. Mean and standard deviation over {seeds} seeds; PQ in percent, on the validation images.
PQ {target:g} is looked for every few iterations; evaluations are not counted as time.

{table}

Every run:

{table_of_runs}

Measured with `python -m benchmarks.quickstart` on {machine()}."""


def summary(points: Sequence[Point], target: float) -> dict[str, float | None]:
    """What a run came to: its metrics at the end, and when it reached the target; None: never."""
    first = next((point for point in points if point["PQ"] >= target), None)
    return {
        **{f"{name} at the end": points[-1][name] for name in METRICS},
        f"iterations to PQ {target:g}": first and first["iterations"],
        f"minutes to PQ {target:g}": first and first["seconds"] / 60,
        "iterations": points[-1]["iterations"],
        "minutes": points[-1]["seconds"] / 60,
    }


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation."""
    if None in values:
        return "not reached by all"
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3, help="runs of a recipe: %(default)s")
    parser.add_argument("--target", type=float, default=70.0, help="PQ to reach: %(default)s")
    parser.add_argument("--every", type=int, default=25, help="iterations between evaluations")
    parser.add_argument("--stop", action="store_true", help="at the target")
    parser.add_argument("--output", type=Path, default=Path("output/side_by_side"), help="folder")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options")
    args = parser.parse_args()
    make_shapes()
    runs: dict[str, list[list[Point]]] = {}
    for seed in range(args.seeds):
        for model in args.models:
            runs.setdefault(model, []).append(run(model, seed, args))
    text = report(runs, args.target)
    print(text)
    if not args.stop:
        write_section(REPORT, "quickstart", text)


if __name__ == "__main__":
    main()
