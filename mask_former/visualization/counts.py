"""The numbers of objects of each class, written into a picture."""

from collections.abc import Mapping

import numpy as np
from detectron2.data import Metadata

from mask_former.visualization.labels import write_label
from mask_former.visualization.palette import Palette
from mask_former.visualization.text import text_mask

# A line's share of the shorter side of the picture, and its least and largest height in pixels.
_SHARE, _LEAST, _MOST = 0.05, 9, 40


def draw_counts(picture: np.ndarray, counts: Mapping[int, int], metadata: Metadata) -> None:
    """Write "NAME: NUMBER" into the upper left corner of a picture, a class a line; classes of no
    objects, and lines for which there is no room, are left out.

    Args:
        picture: uint8 (H, W, 3), BGR; written into.
        counts: by contiguous id.
        metadata: Detectron2's `Metadata`; missing names and colours are generated.
    """
    palette = Palette(metadata)
    size = round(min(max(_SHARE * min(picture.shape[:2]), _LEAST), _MOST))
    top = left = size // 4
    for category, count in counts.items():
        if not count:
            continue
        text = text_mask(f"{palette.name(category)}: {count}", size, bold=True)
        right, bottom = left + text.shape[1] + text.shape[0] // 2, top + text.shape[0] + 2
        if right > picture.shape[1] or bottom > picture.shape[0]:
            continue
        write_label(picture, text, (left, top, right, bottom), palette.color(category))
        top = bottom + 1
