"""Sliding windows: the scores of an image of any size, of a model that looks at square windows.

A pixel's scores are the mean of those of the windows that it lies in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.errors import UserError
from mask_former.inference.assign import largest
from mask_former.inference.resize import Size, Sizes, mask_tiles


@dataclass(frozen=True)
class SlidingWindow:
    """Where windows lie, along each axis of an image.

    Attributes:
        size: side of the square windows in pixels.
        stride: pixels from one window to the next, at most `size`; the last window ends with the
            image (Segmenter). 0: as few windows as cover the image, spread evenly (EoMT).
        batch_size: windows that a model sees at once.

    Raises:
        UserError: `size` or `batch_size` is no positive number; windows would leave gaps.
    """

    size: int
    stride: int = 0
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.size < 1 or self.batch_size < 1:
            raise UserError(
                f"TEST.WINDOW.SIZE is {self.size} and TEST.WINDOW.BATCH_SIZE {self.batch_size}; "
                "both must be at least 1."
            )
        if not 0 <= self.stride <= self.size:
            raise UserError(
                f"TEST.WINDOW.STRIDE is {self.stride}; it must be at most TEST.WINDOW.SIZE, "
                f"{self.size}, or pixels between two windows would have no scores. 0 spreads as "
                "few windows as cover the image."
            )

    def starts(self, side: int) -> list[int]:
        """The first pixel of every window along a side of at least `size` pixels."""
        last = side - self.size
        if self.stride:
            return [*range(0, last, self.stride), last]
        gaps = -(-side // self.size) - 1
        return [*(i * last // gaps for i in range(gaps)), last]


def at_least_a_window(image: Tensor, size: int) -> Tensor:
    """An image, (C, H, W), whose shorter side is enlarged to `size` pixels if it has fewer.

    Bilinear, in float32. The longer side keeps its proportion, rounded down.
    """
    short = min(image.shape[-2:])
    if short >= size:
        return image
    enlarged = tuple(side * size // short for side in image.shape[-2:])
    return F.interpolate(image[None].float(), size=enlarged, mode="bilinear")[0]


def sliding_window_inference(
    score: Callable[[Tensor], Iterable[Tensor]], image: Tensor, window: SlidingWindow
) -> Tensor:
    """Average the scores of overlapping windows; see Segmenter (arXiv:2105.05633), section 4.1.

    Args:
        score: scores of n windows, (n, C, size, size): n x (K, size, size), such as the logits of
            the classes. It never sees more than `window.batch_size` windows.
        image: (C, H, W); enlarged by `at_least_a_window`.
        window: size and places of the windows.

    Returns:
        float32 (K, H', W'), of the size of the enlarged image.
    """
    image = at_least_a_window(image, window.size)
    rows, columns = (
        [slice(start, start + window.size) for start in window.starts(side)]
        for side in image.shape[-2:]
    )
    places = [(slice(None), y, x) for y in rows for x in columns]
    total = image.new_zeros(())
    for first in range(0, len(places), window.batch_size):
        batch = places[first : first + window.batch_size]
        scores = score(torch.stack([image[place] for place in batch]))
        for place, values in zip(batch, scores, strict=True):
            if total.dim() == 0:
                total = values.new_zeros(len(values), *image.shape[-2:], dtype=torch.float32)
            total[place] += values
    height, width = image.shape[-2:]
    counts = _coverage(rows, height, total)[:, None] * _coverage(columns, width, total)
    return total.div_(counts)


def _coverage(windows: list[slice], side: int, like: Tensor) -> Tensor:
    """In how many of the windows each of so many pixels lies, (side,)."""
    counts = like.new_zeros(side)
    for window in windows:
        counts[window] += 1
    return counts


def labels_of_scores(scores: Tensor, size: Size) -> Tensor:
    """The class of the largest of the scores, (K, h, w), scaled to `size`: int64 (H, W).

    The scaled scores of all classes are never held at once.
    """
    labels = scores.new_empty(size, dtype=torch.int64)
    own = tuple(scores.shape[-2:])
    for rows, tile in mask_tiles(scores, Sizes(own, own, size)):
        labels[rows] = largest(tile)
    return labels
