"""Names written into the segments of a picture."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from mask_former.visualization.palette import Color
from mask_former.visualization.text import blend, draw_text, text_mask

_WHITE = (255, 255, 255)
# The thickest point is searched on a map of at most this side, which is precise enough.
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

    A text that is larger than the picture, or would cover another, even a line above or below, is
    left out.

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
        mask = small == number
        if not mask.any():
            continue
        x, y = _thickest_point(mask)
        text = text_mask(texts[number - 1], size)
        box = _free_box(x * step + step // 2, y * step + step // 2, text, picture, taken)
        if box is not None:
            taken.append(box)
            write_label(picture, text, box, colors[number - 1])


def _thickest_point(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel farthest from the border of the mask, and of the picture."""
    distance = cv2.distanceTransform(np.pad(mask.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    # A band is equally thick along its whole length; its middle is the best of those places.
    y, x = np.nonzero(distance > 0.9 * distance.max())
    best = ((y - y.mean()) ** 2 + (x - x.mean()) ** 2).argmin()
    return int(x[best]), int(y[best])


def _free_box(
    x: int, y: int, text: np.ndarray, picture: np.ndarray, taken: Sequence[_Box]
) -> _Box | None:
    """The box of a label that is centred at (x, y), or a line off it; None: there is no room."""
    height, width = text.shape[0] + 2, text.shape[1] + text.shape[0] // 2
    if height > picture.shape[0] or width > picture.shape[1]:
        return None
    left = min(max(x - width // 2, 0), picture.shape[1] - width)
    for shift in (0, 1, -1):
        top = y - height // 2 + shift * (height + 1)
        top = min(max(top, 0), picture.shape[0] - height)
        box = (left, top, left + width, top + height)
        if not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def write_label(picture: np.ndarray, text: np.ndarray, box: _Box, color: Color) -> None:
    """Write a text, as `text_mask` makes it, white on a dark shade of a colour.

    Args:
        picture: uint8 (H, W, 3), BGR; written into.
        text: uint8 (h, w).
        box: left, top, right, bottom; inside of the picture, two pixels higher and half a line
            wider than the text.
        color: of the segment or class.
    """
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
