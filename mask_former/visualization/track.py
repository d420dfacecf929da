"""Stable colours for the instances of a video whose frames are segmented one by one."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from mask_former.visualization.draw import index_map, to_numpy

# Overlaps are compared on every fourth pixel of every fourth row.
_STEP = 4


class ShadeTracker:
    """Gives an instance the shade that it had in the previous frame.

    Segments of consecutive frames are the same when they are of one class and overlap; the pair
    with the largest overlap is matched first. Used with `draw_panoptic(..., shades=...)`.
    """

    def __init__(self) -> None:
        self._index: np.ndarray | None = None
        self._categories: list[int] = []
        self._shades: list[int] = []

    def update(
        self, panoptic_map: np.ndarray | Tensor, segments_info: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        """Take the next frame and return the shade of each of its segments.

        Args:
            panoptic_map: segment ids, integer (H, W).
            segments_info: dictionaries with `id` and `category_id`.
        """
        ids = np.array([info["id"] for info in segments_info], np.int64)
        index = index_map(to_numpy(panoptic_map)[::_STEP, ::_STEP], ids)
        categories = [info["category_id"] for info in segments_info]
        shades: list[int | None] = [None] * len(categories)
        for before, now in self._matches(index, categories).items():
            shades[now] = self._shades[before]
        self._index, self._categories = index, categories
        self._shades = _fill(shades, categories)
        return self._shades

    def _matches(self, index: np.ndarray, categories: Sequence[int]) -> dict[int, int]:
        """Segments of the previous frame, and the segment of this frame that each is, if any."""
        if self._index is None or self._index.shape != index.shape:
            return {}
        columns = len(categories) + 1
        pairs = self._index.astype(np.int64) * columns + index
        overlap = np.bincount(pairs.ravel(), minlength=(len(self._categories) + 1) * columns)
        overlap = overlap.reshape(-1, columns)[1:, 1:]
        matches: dict[int, int] = {}
        for flat in np.argsort(-overlap, axis=None, kind="stable").tolist():
            before, now = divmod(flat, columns - 1)
            if overlap[before, now] == 0:
                break
            are_free = before not in matches and now not in matches.values()
            if are_free and self._categories[before] == categories[now]:
                matches[before] = now
        return matches


def _fill(shades: Sequence[int | None], categories: Sequence[int]) -> list[int]:
    """Give every segment without a shade the lowest that its class has free."""
    used = {(c, shade) for c, shade in zip(categories, shades, strict=True) if shade is not None}
    filled = []
    for category, shade in zip(categories, shades, strict=True):
        if shade is None:
            shade = next(free for free in count() if (category, free) not in used)
            used.add((category, shade))
        filled.append(shade)
    return filled
