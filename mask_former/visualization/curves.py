"""Training curves from the `metrics.json` of Detectron2's `JSONWriter`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mask_former.checkpoint.atomic_write import explained_write_errors, make_folder_of
from mask_former.errors import UserError
from mask_former.evaluation.metrics_file import read_metrics

# Metrics that get a curve, by the last part of their name, e.g. "panoptic_seg/PQ".
_METRICS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "mIoU", "AP")


def plot_curves(metrics: str | Path, output: str | Path, *, title: str = "") -> None:
    """Plot the losses, the validation metrics and the learning rate of a training run.

    Args:
        metrics: the run's `metrics.json`.
        output: the picture; its suffix names the format (.png, .svg, .pdf).
        title: printed above.

    Raises:
        MissingFileError: there is no such file.
        UserError: no entry in it can be read.
    """
    entries = read_metrics(metrics)
    if not entries:
        raise UserError(f"{metrics} holds no training metrics: every line is empty or torn")
    names = sorted({name for entry in entries for name in entry})
    # The names of a layer's losses end in its number, except for the last layer's, which are shown.
    losses = [n for n in names if n.startswith("loss_") and not re.search(r"_\d+$", n)]
    losses += [n for n in names if n.endswith("validation/total_loss")]
    validation = [n for n in names if n.rsplit("/", 1)[-1] in _METRICS]
    # A figure made without pyplot needs no display and leaves the user's backend alone.
    figure = Figure(figsize=(15, 3.8), layout="constrained")
    loss_axes, metric_axes, rate_axes = figure.subplots(1, 3)
    _plot(loss_axes, entries, ["total_loss", *losses], "loss", smooth=True)
    loss_axes.set_yscale("log")
    _plot(metric_axes, entries, validation, "validation, %", marker="o")
    _plot(rate_axes, entries, ["lr"], "learning rate")
    _add_minutes(loss_axes, entries)
    figure.suptitle(title.replace("$", r"\$"), fontweight="bold")
    make_folder_of(output)
    with explained_write_errors(output):
        figure.savefig(output, dpi=130)


def _plot(
    axes: Axes,
    entries: Sequence[dict[str, Any]],
    names: Sequence[str],
    label: str,
    *,
    smooth: bool = False,
    marker: str = "",
) -> None:
    for name in names:
        iterations, values = _series(entries, name)
        if len(values) == 0:
            continue
        (line,) = axes.plot(
            iterations, values, label=name, marker=marker, markersize=4, alpha=0.3 if smooth else 1
        )
        if smooth:
            line.set_label(None)
            axes.plot(iterations, _smoothed(values), label=name, color=line.get_color())
    axes.set_xlabel("iteration")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        # Beside the panel, where no curve can run through it.
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    else:
        axes.text(0.5, 0.5, "none recorded", ha="center", transform=axes.transAxes, color="gray")


def _series(entries: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(entry["iteration"], entry[name]) for entry in entries if name in entry]
    series = np.array(pairs, np.float64).reshape(-1, 2)
    return series[:, 0], series[:, 1]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over a tenth of the curve, over less at its ends."""
    width = len(values) // 20 * 2 + 1
    window = np.ones(width)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _add_minutes(axes: Axes, entries: Sequence[dict[str, Any]]) -> None:
    """A second scale above the axes: minutes of training, from the time of the iterations."""
    iterations, seconds = _series(entries, "time")
    if len(iterations) < 2:
        return
    minutes = np.cumsum(seconds * np.diff(iterations, prepend=0)) / 60
    # The axes reach beyond the first and the last iteration.
    iterations = np.concatenate([[0], iterations, [2 * iterations[-1]]])
    minutes = np.concatenate([[0], minutes, [2 * minutes[-1]]])
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda x: np.interp(x, iterations, minutes),
            lambda x: np.interp(x, minutes, iterations),
        ),
    )
    above.set_xlabel("minutes")
