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


def class_table(scores: Mapping[str, float], metric: str) -> str:
    """A score for every class, three classes side by side."""
    cells = [[name, value] for name, value in scores.items()]
    height = math.ceil(len(cells) / 3)
    rows = [sum(cells[row::height], []) for row in range(height)]
    return score_table(rows, ["class", metric] * (len(rows[0]) // 2 if rows else 0))
