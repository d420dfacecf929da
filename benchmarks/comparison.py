"""The models side by side, on the data set "shapes" at one equal, small budget over several seeds.

    python -m benchmarks.comparison                                     # all, about 50 minutes
    python -m benchmarks.comparison --models maskformer pem --seeds 1 --minutes 2

The budget is processor time of one core, so that other work on the machine makes a run longer but
hardly worse. How many iterations fit in it is measured first, and the recipes' schedules are scaled
to them. Runs that are done are not done again: after an interruption the same command continues
with the next. `--document` puts the report into docs/ABLATION.md.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from detectron2.config import CfgNode
from tqdm import tqdm

import mask_former  # noqa: F401  (registers the components)
from benchmarks.comparison_report import MODELS, Found, plot, report
from benchmarks.timed_training import CONFIG, FOUND, METRICS
from mask_former.data.datasets import make_shapes
from mask_former.engine import load_config, reported_errors
from mask_former.engine.learning_rate import with_iterations
from mask_former.errors import UserError
from tools.sections import write_section

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/ABLATION.md"
PICTURE = "images/comparison.png"  # beside the document
# Of the measurement of an iteration: it is repeated, and its first iterations do not count.
CALIBRATIONS, CALIBRATION_ITERATIONS, WARMUP_ITERATIONS = 2, 20, 5


def config(model: str, opts: Sequence[str], folder: Path) -> CfgNode:
    """The recipe of a model, for a run in `folder`."""
    keys = ["DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(folder)]
    return load_config(str(MODELS[model].recipe), [*opts, *keys])


def calibration(model: str, number: int, args: argparse.Namespace) -> CfgNode:
    """The config of a short training, to measure how long an iteration takes."""
    folder = args.output / "calibration" / f"{model}-{number}"
    cfg = with_iterations(config(model, args.opts, folder), CALIBRATION_ITERATIONS)
    cfg.defrost()
    cfg.TEST.EVAL_PERIOD = WARMUP_ITERATIONS  # where the clock is read
    cfg.DATASETS.TEST = ()  # there is nothing to evaluate
    return cfg


def training(model: str, seed: int, iterations: int, args: argparse.Namespace) -> CfgNode:
    """The config of a run."""
    folder = args.output / f"{args.minutes:g}-minutes" / f"{model}-{seed}"
    cfg = with_iterations(config(model, args.opts, folder), iterations)
    cfg.defrost()
    cfg.SEED = seed
    cfg.TEST.EVAL_PERIOD = math.ceil(iterations / args.evaluations)
    cfg.SOLVER.CHECKPOINT_PERIOD = iterations
    return cfg


def run(cfg: CfgNode) -> Found:
    """Train in a process of its own, unless that is done.

    Raises:
        UserError: the folder holds a run of another configuration; the training failed.
    """
    folder = Path(cfg.OUTPUT_DIR)
    used, found, output = folder / CONFIG, folder / FOUND, folder / "output.txt"
    if found.exists() and used.read_text() != cfg.dump():
        raise UserError(
            f"{folder} holds a run of another configuration, from before a recipe or an option was "
            "changed: remove it, or choose another --output"
        )
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        used.write_text(cfg.dump())
        command = [sys.executable, "-m", "benchmarks.timed_training", str(folder)]
        one_core = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with output.open("w") as file:
            done = subprocess.run(command, env=one_core, stdout=file, stderr=file, check=False)
        if done.returncode:
            raise UserError(f"the training failed; see {output}")
    return json.loads(found.read_text())


def run_all(configs: Sequence[CfgNode], jobs: int, title: str) -> list[Found]:
    """`jobs` of the runs at a time, with a bar; what each has found, in their order."""
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(configs), desc=title) as bar:
        futures = {pool.submit(run, cfg): Path(cfg.OUTPUT_DIR).name for cfg in configs}
        try:
            for future in as_completed(futures):
                last = future.result()["points"][-1]
                metrics = [f"{name} {last[name]:.1f}" for name in METRICS if name in last]
                bar.write(
                    f"{futures[future]}: {last['iterations']} iterations, "
                    + ", ".join([f"{last['seconds'] / 60:.2f} minutes", *metrics])
                )
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def fitting_iterations(args: argparse.Namespace) -> dict[str, int]:
    """By model, how many iterations the budget has time for."""
    each = [(model, number) for number in range(CALIBRATIONS) for model in args.models]
    found = run_all([calibration(*x, args) for x in each], args.jobs, "Time of an iteration")
    seconds: dict[str, list[float]] = {}
    for (model, _), measured in zip(each, found, strict=True):
        first, *_, last = measured["points"]
        took = (last["seconds"] - first["seconds"]) / (last["iterations"] - first["iterations"])
        seconds.setdefault(model, []).append(took)
    return {m: max(1, round(60 * args.minutes / statistics.mean(x))) for m, x in seconds.items()}


def compare(args: argparse.Namespace) -> dict[str, list[Found]]:
    """What every run of each model has found."""
    iterations = fitting_iterations(args)
    each = [(model, seed) for seed in range(args.seeds) for model in args.models]
    configs = [training(model, seed, iterations[model], args) for model, seed in each]
    todo = sum(not Path(cfg.OUTPUT_DIR, FOUND).exists() for cfg in configs)
    # Evaluations and the start of a process take somewhat more than a minute.
    wall = todo * (args.minutes + 1.3) / args.jobs
    print(f"{todo} runs of {args.minutes:g} minutes of processor time: about {wall:.0f} minutes")
    runs: dict[str, list[Found]] = {}
    for (model, _), found in zip(each, run_all(configs, args.jobs, "Runs"), strict=True):
        runs.setdefault(model, []).append(found)
    return runs


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of a recipe: %(default)s")
    parser.add_argument(
        "--minutes", type=float, default=3.5, help="processor time of a training: %(default)s"
    )
    parser.add_argument("--evaluations", type=int, default=6, help="of a run: %(default)s")
    parser.add_argument("--target", type=float, default=70.0, help="PQ to reach: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/comparison"), help="folder")
    parser.add_argument("--document", action="store_true", help=f"write into {DOCUMENT.name}")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options")
    args = parser.parse_args(argv)
    make_shapes()
    runs = compare(args)
    text = report(runs, minutes=args.minutes, target=args.target, picture=PICTURE)
    print(text)
    if args.document:
        plot(runs, DOCUMENT.parent / PICTURE)
        write_section(DOCUMENT, "comparison", text)
    plot(runs, args.output / "comparison.png")


if __name__ == "__main__":
    with reported_errors():
        main()
