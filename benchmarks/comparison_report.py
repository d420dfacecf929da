"""The report of `benchmarks.comparison`: tables, and a plot of quality against time."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from benchmarks.measure import machine
from benchmarks.timed_training import METRICS, SIZE, Point

SHAPES = Path(__file__).parents[1] / "configs/shapes"
MAIN_METRICS = ("mIoU", "PQ", "AP")

Found = Mapping[str, Any]
"""What `benchmarks.timed_training` writes."""
Runs = Mapping[str, Sequence[Found]]
"""By model, what was found with every seed."""


@dataclass(frozen=True)
class Model:
    """A row of the report, and the name of its recipe in configs/shapes."""

    label: str
    config: str

    @property
    def recipe(self) -> Path:
        return SHAPES / f"{self.config}.yaml"


MODELS = {
    "maskformer": Model("MaskFormer", "maskformer_panoptic_quickstart"),
    "mask2former": Model("Mask2Former", "mask2former_panoptic"),
    "pem": Model("PEM", "pem_panoptic"),
    "eomt": Model("EoMT, ViT-Ti", "eomt_panoptic"),
    "segmenter": Model("Segmenter, ViT-Ti", "segmenter"),
    "per_pixel_baseline": Model("per-pixel baseline", "per_pixel_baseline"),
    "mask2former_instance": Model("Mask2Former, instances alone", "mask2former_instance"),
}


def report(runs: Runs, *, minutes: float, target: float, picture: str) -> str:
    """The section as Markdown.

    Args:
        minutes: the budget.
        target: the PQ that is looked for.
        picture: where `plot` puts it, relative to the document.
    """
    seeds = max(map(len, runs.values()))
    batch, precision = (
        ", ".join(sorted({str(run[key]) for found in runs.values() for run in found}))
        for key in ("batch size", "precision")
    )
    panoptic = {m: found for m, found in runs.items() if "PQ" in found[0]["points"][-1]}
    shortest = min(run["points"][-1]["seconds"] for found in runs.values() for run in found)
    return f"""Every model trains from scratch for {minutes:g} minutes of processor time of a core,
loading included; evaluations are not counted. All have the same images, whose shorter side is 96
pixels, in tests 112 (Segmenter trains on crops of 96 x 96 and is tested in windows of that size at
that scale), flips, batch size ({batch}), EMA of the weights and precision ({precision}). Each keeps
the loss, the optimizer and the learning rate of its recipe in `configs/shapes`; the schedule, with
warm-up and EoMT's annealing, is scaled to the iterations that fit. MaskFormer, Mask2Former, PEM and
the per-pixel baseline share a small ResNet-18; the two plain ViTs, which are published with
pretrained weights, start from random ones here. For that their learning rates were tried out,
Segmenter's at half and twice of what it is and EoMT's at half, in 40 to 130 iterations of a seed.
This shows how the models learn from little, not how they do on ADE20K or COCO.

Mean and standard deviation over {seeds} seed{"s" * (seeds > 1)}, in percent, on the validation
images, at the end. A dash: the recipe has no such results. AP is that of the masks of the six
classes of things.
Multiply-adds are those of an image of {SIZE[0]} x {SIZE[1]} with semantic inference, as
`tools/analyze_model` counts them. Images a second of training and milliseconds of inference (of an
image to all results of the recipe) are processor time of one core.

{_table(runs, _overview)}

![Quality against minutes of training, of all models]({picture})

The lines are means, the bands reach from the worst to the best seed.

### After {shortest / 60:.1f} minutes

Runs end sooner or later than planned, as the machine is faster or slower than when iterations were
timed. This is what all had when the first one ended, interpolated between evaluations; the
schedules of the longer ones were not at their end.

{_table(runs, lambda found: _at(found, shortest))}

### Panoptic quality, and when it is {target:g}

Between two evaluations PQ is interpolated.

{_table(panoptic, lambda found: _panoptic(found, target))}

### Every run

{_every_run(runs)}

Measured with `python -m benchmarks.comparison --minutes {minutes:g} --seeds {seeds}` on
{machine()}, each run with one thread."""


def _table(runs: Runs, row: Callable[[Sequence[Found]], dict[str, str]]) -> str:
    rows = [{"": MODELS[model].label, **row(found)} for model, found in runs.items()]
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)


def _overview(found: Sequence[Found]) -> dict[str, str]:
    last = [run["points"][-1] for run in found]
    rates = [
        run["batch size"] * point["iterations"] / point["seconds"]
        for run, point in zip(found, last, strict=True)
    ]
    return {
        **{name: spread([point.get(name) for point in last]) for name in MAIN_METRICS},
        "parameters": f"{found[0]['parameters'] / 1e6:.1f} M",
        "multiply-adds": f"{found[0]['multiply-adds'] / 1e9:.2f} G",
        "iterations": f"{last[0]['iterations']:.0f}",
        "training, images/s": spread(rates),
        "inference, ms": spread([1e3 * run["inference seconds"] for run in found]),
    }


def _at(found: Sequence[Found], seconds: float) -> dict[str, str]:
    return {
        name: spread([value_at(run["points"], name, seconds) for run in found])
        for name in MAIN_METRICS
    }


def _panoptic(found: Sequence[Found], target: float) -> dict[str, str]:
    last = [run["points"][-1] for run in found]
    reached = [first_reached(run["points"], target) for run in found]
    never = {"iterations": None, "seconds": None}
    reached = [never if point is None else point for point in reached]
    minutes = [x["seconds"] and x["seconds"] / 60 for x in reached]
    return {
        **{name: spread([point[name] for point in last]) for name in METRICS if "PQ" in name},
        f"iterations to PQ {target:g}": spread([x["iterations"] for x in reached], digits=0),
        f"minutes to PQ {target:g}": spread(minutes),
    }


def _every_run(runs: Runs) -> str:
    rows = []
    for model, found in runs.items():
        for seed, run in enumerate(found):
            last = run["points"][-1]
            metrics = {name: spread([last.get(name)]) for name in MAIN_METRICS}
            row = {"": MODELS[model].label, "seed": seed, **metrics}
            rows.append({**row, "minutes": f"{last['seconds'] / 60:.2f}"})
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)


def value_at(points: Sequence[Point], metric: str, seconds: float) -> float | None:
    """A metric after so many seconds, interpolated between evaluations; None: there is none."""
    if metric not in points[0]:
        return None
    return float(np.interp(seconds, *([p[key] for p in points] for key in ("seconds", metric))))


def first_reached(points: Sequence[Point], target: float) -> Point | None:
    """The iterations and seconds after which PQ is `target`, interpolated; None: it never is."""
    before: Point = {"iterations": 0, "seconds": 0.0, "PQ": 0.0}
    for point in points:
        if point["PQ"] >= target:
            share = (target - before["PQ"]) / (point["PQ"] - before["PQ"])
            keys = ("iterations", "seconds")
            return {key: before[key] + share * (point[key] - before[key]) for key in keys}
        before = point
    return None


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean and standard deviation; of runs some of which have no value, how many have one."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    if len(known) < len(values):
        return f"in {len(known)} of {len(values)} runs"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def plot(runs: Runs, path: Path) -> None:
    """Quality against minutes of training: a panel a metric, a line a model."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for panel, metric in zip(figure.subplots(1, len(MAIN_METRICS)), MAIN_METRICS, strict=True):
        for i, (model, found) in enumerate(runs.items()):
            if metric in found[0]["points"][-1]:
                evaluations = list(zip(*(run["points"] for run in found), strict=True))
                minutes = [statistics.mean(x["seconds"] / 60 for x in at) for at in evaluations]
                values = [[point[metric] for point in at] for at in evaluations]
                means = [statistics.mean(x) for x in values]
                panel.plot(minutes, means, f"C{i}o-", markersize=4, label=MODELS[model].label)
                low, high = [min(x) for x in values], [max(x) for x in values]
                panel.fill_between(minutes, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
        panel.set(title=metric, xlabel="minutes of training", ylabel="%", ylim=(0, 100))
        panel.set_xlim(left=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    lines = {
        label: line
        for panel in figure.axes
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(lines.values(), lines, loc="outside right upper", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
