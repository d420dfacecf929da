"""The paper's comparison of per-pixel and mask classification, on the data set "shapes".

    python -m tools.run_ablation

Trains every recipe with several seeds for the same number of iterations and writes its part of
docs/ABLATION.md. After an interruption it continues where it stopped.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from mask_former.data.datasets import make_shapes
from mask_former.engine import load_config, reported_errors
from mask_former.errors import UserError
from mask_former.evaluation.metrics_file import read_metrics
from tools.sections import write_section

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs/ABLATION.md"
METRICS = {"mIoU": "sem_seg/mIoU", "PQ^St": "sem_seg/PQ_St"}

Metrics = dict[str, float]
"""Value by metric, in percent."""


@dataclass(frozen=True)
class Recipe:
    """One row of the report.

    Attributes:
        label: of the row of the paper's table.
        model: the name of the model.
        config: name of a file in configs/shapes, without its suffix.
        opts: options of the command line, KEY, VALUE, ...
    """

    label: str
    model: str
    config: str
    opts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "-".join([self.config, *self.opts]).lower()


PAPER = (
    Recipe("(a)", "PerPixelBaseline", "per_pixel_baseline"),
    Recipe("(b)", "PerPixelBaseline+", "per_pixel_baseline_plus"),
    Recipe("(c)", "MaskFormer, fixed matching", "maskformer_semantic_fixed"),
    Recipe("(d)", "MaskFormer, bipartite matching", "maskformer_semantic"),
)
VOID = Recipe(
    "(d')",
    "as (d), void left out of the loss",
    "maskformer_semantic",
    ("MODEL.MASK_FORMER.IGNORE_VOID", "True"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=1000, help="of every run: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="runs of a recipe: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/ablation"), help="folder")
    args = parser.parse_args()
    make_shapes()
    runs = [(recipe, seed) for seed in range(args.seeds) for recipe in (*PAPER, VOID)]
    results: dict[Recipe, list[Metrics]] = {}
    for recipe, seed in tqdm(runs, "Runs"):
        folder = args.output / f"{args.iterations}-iterations" / recipe.name / f"seed-{seed}"
        metrics = run(recipe, seed, args.iterations, folder)
        results.setdefault(recipe, []).append(metrics)
    write_section(REPORT, "formulations", report(results, args.iterations))
    print(REPORT)


def run(recipe: Recipe, seed: int, iterations: int, folder: Path) -> Metrics:
    """Train and evaluate, unless that is done; continue a training that was interrupted.

    Raises:
        UserError: `folder` holds a run of another configuration; the training failed.
    """
    config = str(ROOT / "configs/shapes" / f"{recipe.config}.yaml")
    opts = [*recipe.opts, "SEED", str(seed), "SOLVER.MAX_ITER", str(iterations)]
    opts += ["OUTPUT_DIR", str(folder)]
    used = folder / "config.yaml"
    if used.exists() and used.read_text() != load_config(config, opts).dump():
        raise UserError(
            f"{folder} holds a run of another configuration, from before a recipe was changed: "
            "remove it, or choose another --output"
        )
    if done := final_metrics(folder / "metrics.json", iterations):
        return done
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "train_net.py"), "--resume", "--config-file", config]
    with (folder / "output.txt").open("a") as output:
        code = subprocess.run([*command, *opts], stdout=output, stderr=output, check=False)
    metrics = final_metrics(folder / "metrics.json", iterations)
    if code.returncode or metrics is None:
        raise UserError(f"the training of {recipe.name} failed; see {folder / 'output.txt'}")
    return metrics


def final_metrics(path: Path, iterations: int) -> Metrics | None:
    """The metrics of the evaluation after `iterations`; None if it has not taken place."""
    if not path.exists():
        return None
    for entry in read_metrics(path):
        if entry["iteration"] >= iterations - 1 and METRICS["mIoU"] in entry:
            return {metric: entry[key] for metric, key in METRICS.items()}
    return None


def report(results: Mapping[Recipe, Sequence[Metrics]], iterations: int) -> str:
    """The report as Markdown, from the metrics of every run."""
    num_seeds = len(next(iter(results.values())))
    paper = {recipe: results[recipe] for recipe in PAPER}
    orders = "\n".join(f"- {metric}: {order(paper, metric)}" for metric in METRICS)
    return f"""Made by `python -m tools.run_ablation --iterations {iterations} --seeds {num_seeds}`.

The paper's comparison of formulations (section 4), repeated on the data set "shapes". All models
share backbone, pixel decoder, data and optimization, and train for {iterations:,} iterations from
scratch; the recipes are in `configs/shapes`. That is a small budget and an easy data set: it shows
how the formulations compare here, not how they do on ADE20K.

Mean and standard deviation over {num_seeds} seeds, in percent, on the validation images. PQ^St is
panoptic quality with all classes as stuff (`sem_seg/PQ_St`).

{table(paper)}

The paper's order is (d) > (c) > (b) > (a). By the means it is here

{orders}

Differences within the standard deviations say nothing.

### Pixels without annotation

The published models were trained with padded and unannotated pixels as background of every mask,
which is the default. `MODEL.MASK_FORMER.IGNORE_VOID True` leaves them out of costs and mask losses.

{table({recipe: results[recipe] for recipe in (PAPER[-1], VOID)})}

### Every run

{table_of_runs(results)}
"""


def order(results: Mapping[Recipe, Sequence[Metrics]], metric: str) -> str:
    """The labels in descending order of the mean of a metric."""
    means = {
        recipe.label: statistics.mean(metrics[metric] for metrics in runs)
        for recipe, runs in results.items()
    }
    return " > ".join(sorted(means, key=means.__getitem__, reverse=True))


def table(results: Mapping[Recipe, Sequence[Metrics]]) -> str:
    rows = [
        [recipe.label, recipe.model, *(_summary([f[metric] for f in runs]) for metric in METRICS)]
        for recipe, runs in results.items()
    ]
    return tabulate(rows, headers=["", "model", *METRICS], tablefmt="pipe")


def table_of_runs(results: Mapping[Recipe, Sequence[Metrics]]) -> str:
    rows = [
        [recipe.label, seed, *metrics.values()]
        for recipe, runs in results.items()
        for seed, metrics in enumerate(runs)
    ]
    return tabulate(rows, headers=["", "seed", *METRICS], tablefmt="pipe", floatfmt=".2f")


def _summary(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    with reported_errors():
        main()
