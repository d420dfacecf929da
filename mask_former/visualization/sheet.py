"""Contact sheets: rows of pictures under column titles, with a caption below."""

from collections.abc import Sequence

import cv2
import numpy as np

from mask_former.errors import UserError
from mask_former.visualization.text import draw_text, text_mask

_INK = (45, 38, 32)
_PAPER = (255, 255, 255)
_GAP = 10


def make_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    *,
    caption: str = "",
    across: int = 1,
    cell: tuple[int, int] | None = None,
) -> np.ndarray:
    """Lay pictures out in columns, for example input, ground truth and prediction.

    Args:
        rows: for every sample one picture per title, uint8 (H, W, 3), BGR; sizes may differ.
        titles: the columns' names; where all are empty, there is no line for them.
        caption: a line below the pictures, for example the metrics of the model.
        across: samples side by side.
        cell: (width, height) into which every picture is fitted, keeping its proportions.
            Default: the largest width and height that occur.

    Returns:
        The sheet, uint8 (height, width, 3), BGR.

    Raises:
        UserError: no rows, or a row whose length differs from that of `titles`.
    """
    if not rows:
        raise UserError("a sheet needs at least one row of pictures")
    for number, row in enumerate(rows):
        if len(row) != len(titles):
            raise UserError(f"row {number} has {len(row)} pictures for {len(titles)} titles")
    across = min(across, len(rows))
    width, height = cell or (
        max(picture.shape[1] for row in rows for picture in row),
        max(picture.shape[0] for row in rows for picture in row),
    )
    fitted = [[_fit(picture, width, height) for picture in row] for row in rows]
    size = round(min(max(0.07 * width, 10), 40))
    stripes = [_titles(titles, width, size, across)]
    for first in range(0, len(rows), across):
        stripes.append(_line(fitted[first : first + across], width, stripes[0].shape[1]))
    if caption:
        stripe = _paper(text_mask("", size).shape[0] + 2 * _GAP, stripes[0].shape[1])
        _write_centred(stripe, caption, 0, stripe.shape[1], size)
        stripes.append(stripe)
    return np.vstack(stripes)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _left(sample: int, column: int, columns: int, width: int) -> int:
    """Where a column begins. Between samples the gap is twice as wide as inside of one."""
    return _GAP + sample * (columns * (width + _GAP) + _GAP) + column * (width + _GAP)


def _titles(titles: Sequence[str], width: int, size: int, across: int) -> np.ndarray:
    columns = len(titles)
    total = _left(across - 1, columns, columns, width)
    height = text_mask("", size).shape[0] + _GAP if any(titles) else 0
    stripe = _paper(height + _GAP, total)
    for sample in range(across):
        for column, title in enumerate(titles if any(titles) else ()):
            _write_centred(stripe, title, _left(sample, column, columns, width), width, size)
    return stripe


def _line(samples: Sequence[Sequence[np.ndarray]], width: int, total: int) -> np.ndarray:
    """The samples that stand side by side, as high as the highest of their pictures."""
    height = max(picture.shape[0] for row in samples for picture in row)
    stripe = _paper(height + _GAP, total)
    for sample, row in enumerate(samples):
        for column, picture in enumerate(row):
            top = (height - picture.shape[0]) // 2
            left = _left(sample, column, len(row), width) + (width - picture.shape[1]) // 2
            stripe[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return stripe


def _fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale the picture to be as large as it can be inside of (width, height)."""
    factor = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=method)


def _write_centred(stripe: np.ndarray, text: str, left: int, width: int, size: int) -> None:
    """Write into [left, left + width), halfway up, in a smaller size where it would not fit."""
    mask = text_mask(text, size, bold=True)
    while mask.shape[1] > width and size > 6:
        size -= 1
        mask = text_mask(text, size, bold=True)
    left += (width - mask.shape[1]) // 2
    draw_text(stripe, mask, left, (stripe.shape[0] - mask.shape[0]) // 2, _INK)
