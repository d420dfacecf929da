"""Contact sheets: rows of pictures under column titles, with a caption below."""

from collections.abc import Sequence

import cv2
import numpy as np

from .text import draw_text, text_mask

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
        titles: the columns' names.
        caption: a line below the pictures, for example the figures that the model reaches.
        across: samples side by side.
        cell: (width, height) into which every picture is fitted, keeping its proportions.
            Default: the largest width and height that occur.

    Returns:
        The sheet, uint8 (height, width, 3), BGR.

    Raises:
        ValueError: no rows, or a row whose length differs from that of `titles`.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row of pictures")
    for number, row in enumerate(rows):
        if len(row) != len(titles):
            raise ValueError(f"row {number} has {len(row)} pictures for {len(titles)} titles")
    across = min(across, len(rows))
    width, height = cell or (
        max(picture.shape[1] for row in rows for picture in row),
        max(picture.shape[0] for row in rows for picture in row),
    )
    # Between samples side by side the gap is wider than inside of a sample.
    sample_width = len(titles) * (width + _GAP) + _GAP
    text_size = round(min(max(0.07 * width, 10), 40))
    title_height = text_mask("", text_size).shape[0] + _GAP
    lines = -(-len(rows) // across)
    caption_height = title_height + _GAP if caption else 0
    sheet = np.full(
        (
            title_height + lines * (height + _GAP) + _GAP + caption_height,
            across * sample_width + _GAP,
            3,
        ),
        _PAPER,
        np.uint8,
    )
    for number, row in enumerate(rows):
        line, place = divmod(number, across)
        top = title_height + _GAP + line * (height + _GAP)
        for column, picture in enumerate(row):
            left = _GAP + place * sample_width + column * (width + _GAP)
            _fit(picture, sheet[top : top + height, left : left + width])
            if line == 0:
                _write_centred(sheet, titles[column], left, _GAP, width, text_size)
    if caption:
        top = sheet.shape[0] - title_height - _GAP // 2
        _write_centred(sheet, caption, 0, top, sheet.shape[1], text_size)
    return sheet


def _fit(picture: np.ndarray, place: np.ndarray) -> None:
    """Put the picture into the middle of `place`, as large as it goes."""
    factor = min(place.shape[0] / picture.shape[0], place.shape[1] / picture.shape[1])
    if factor != 1:
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
        picture = cv2.resize(picture, (max(size[0], 1), max(size[1], 1)), interpolation=method)
    top = (place.shape[0] - picture.shape[0]) // 2
    left = (place.shape[1] - picture.shape[1]) // 2
    place[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _write_centred(
    sheet: np.ndarray, text: str, left: int, top: int, width: int, size: int
) -> None:
    while (mask := text_mask(text, size, bold=True)).shape[1] > width and size > 6:
        size -= 1
    draw_text(sheet, mask, left + (width - mask.shape[1]) // 2, top, _INK)
