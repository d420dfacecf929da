"""Names written into the segments of a picture."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from .palette import Color
from .text import blend, draw_text, text_mask

_WHITE = (255, 255, 255)
# The thickest place is looked for on a reduced map: it needs no pixel's precision.
_MAP_SIDE = 160

_Box = tuple[int, int, int, int]  # left, top, right, bottom


def write_labels(
    picture: np.ndarray,
    index: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    *,
    size: int,
) -> None:
    """Write every segment's text where the segment is thickest, the largest segments first.

    A text that would cover another, even a line above or below, is left out.

    Args:
        picture: uint8 (H, W, 3), BGR; written into.
        index: integer (H, W); i belongs to `texts[i - 1]`, 0 to none.
        texts: one a segment; empty for none.
        colors: of the segments.
        size: height of a line in pixels.
    """
    step = -(-max(index.shape) // _MAP_SIDE)
    small = index[step // 2 :: step, step // 2 :: step]
    taken: list[_Box] = []
    for number in np.argsort(-np.bincount(small.ravel(), minlength=len(texts) + 1)).tolist():
        if number == 0 or not texts[number - 1]:
            continue
        mask = (small == number).view(np.uint8)
        if not mask.any():
            continue
        # The border counts as outside, so that labels stay away from the picture's edge.
        distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        text = text_mask(texts[number - 1], size)
        box = _free_box(int(x) * step, int(y) * step, text.shape, picture.shape, taken)
        if box is not None:
            taken.append(box)
            _write_label(picture, text, box, colors[number - 1])


def _free_box(
    x: int,
    y: int,
    text_shape: tuple[int, int],
    picture_shape: tuple[int, ...],
    taken: Sequence[_Box],
) -> _Box | None:
    """Left, top, right, bottom of a label centred at (x, y) or a line off it; None: no room."""
    height, width = text_shape[0] + 2, text_shape[1] + text_shape[0] // 2
    left = min(max(x - width // 2, 0), max(picture_shape[1] - width, 0))
    for shift in (0, 1, -1):
        top = min(max(y - height // 2 + shift * (height + 1), 0), picture_shape[0] - height)
        box = (left, top, left + width, top + height)
        if top >= 0 and not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write_label(picture: np.ndarray, text: np.ndarray, box: _Box, color: Color) -> None:
    left, top, right, bottom = box
    # A dark shade of the segment's colour: white is legible on it, whatever the colour.
    dark = (color[0] // 5, color[1] // 5, color[2] // 5)
    blend(picture[top:bottom, left:right], 0.7 * _rounded(bottom - top, right - left), dark)
    draw_text(picture, text, left + text.shape[0] // 4, top + 1, _WHITE)


@lru_cache(maxsize=1024)
def _rounded(height: int, width: int) -> np.ndarray:
    """A rectangle with round corners: 1 inside, float32 (height, width, 1)."""
    radius = height // 4
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    full = np.pad(np.ones((height, width), np.float32), 1)
    return cv2.morphologyEx(full, cv2.MORPH_OPEN, disc)[1:-1, 1:-1, None]
