"""Metrics: their means over classes, and tables for the log."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate


def mean_or_nan(values: np.ndarray) -> float:
    """The mean, which is NaN for no values at all."""
    return float(values.mean()) if values.size else math.nan


def score_table(rows: Sequence[Sequence[str | float]], headers: Sequence[str]) -> str:
    """A table of scores in percent; the first entry of a row is its name."""
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".2f", missingval="-")


def class_table(scores: Mapping[str, float], metric: str, width: int = 3) -> str:
    """A score for every class, `width` classes side by side."""
    height = math.ceil(len(scores) / width)
    cells = [[name, value] for name, value in scores.items()]
    rows = [sum(cells[row::height], []) for row in range(height)]
    return score_table(rows, ["class", metric] * min(width, math.ceil(len(cells) / max(height, 1))))
