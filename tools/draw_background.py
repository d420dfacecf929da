"""Draw docs/images/background.png: background, ignore and "no object" are three things.

python -m tools.draw_background
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mask_former.data.shapes.make import CATEGORIES
from mask_former.data.shapes.scene import make_sample
from mask_former.visualization import SegmentStyle, make_sheet, paint
from mask_former.visualization.palette import Color
from mask_former.visualization.text import draw_text, text_mask

PICTURE = Path(__file__).parents[1] / "docs/images/background.png"
SEED = 31  # of a scene with three things on one ground
SIDE = 420
GREY: Color = (150, 150, 150)
INK: Color = (45, 38, 32)
QUERIES = 6
TITLES = [
    "an image",
    "background: a class",
    "ignored: the value 255",
    "no object: no class at all",
]
SAID = [
    ["three objects, and a wall that", "nobody is interested in"],
    ["pixels with a label of their own: they", "are learned, predicted and scored"],
    ["pixels that nobody may judge: they", "are neither learned nor scored"],
    ["in no file: what a query says that", "has found nothing, as most have"],
]


def main() -> None:
    """Draw the picture."""
    sample = make_sample(np.random.default_rng(SEED))
    scale = SIDE / max(sample.image.shape[:2])
    image = np.ascontiguousarray(sample.image[..., ::-1])
    colors = {category["name"]: category["color"] for category in CATEGORIES}
    things = [c["name"] for c in CATEGORIES if c["isthing"]]
    index = np.zeros_like(sample.segment_map)
    styles = []
    for number, segment in enumerate(sample.segments, start=1):
        if segment.name in things:
            styles.append(SegmentStyle(tuple(colors[segment.name][::-1]), segment.name))
            index[sample.segment_map == number] = len(styles)
    background = SegmentStyle((120, 90, 60), "background")
    everything = np.where(index == 0, len(styles) + 1, index).astype(np.uint8)
    ignored, hatched = ignore(everything)
    panels = [
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC),
        paint(image, everything, [*styles, background], scale=scale),
        hatch(paint(image, ignored, [*styles, background], scale=scale), hatched),
        queries(image, index, styles),
    ]
    rows = [[with_text(panel, lines) for panel, lines in zip(panels, SAID, strict=True)]]
    sheet = cv2.cvtColor(make_sheet(rows, TITLES), cv2.COLOR_BGR2RGB)
    Image.fromarray(sheet).quantize(128).save(PICTURE, optimize=True)
    print(PICTURE)


def ignore(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments without their borders and without a corner, and what was taken away, bool."""
    hatched = cv2.morphologyEx(index, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    height, width = index.shape
    hatched[-height // 3 :, : width // 3] = True
    return np.where(hatched, 0, index).astype(np.uint8), hatched


def hatch(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Stripes where the mask (H, W) is."""
    height, width = picture.shape[:2]
    mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    stripes = (np.add.outer(np.arange(height), np.arange(width)) // 8) % 2 == 0
    picture = picture.copy()
    picture[mask] = 255
    picture[mask & stripes] = GREY
    text = text_mask("255", 22, bold=True)
    top, left = height * 5 // 6, width // 6 - text.shape[1] // 2
    picture[top - 4 : top + text.shape[0] + 4, left - 8 : left + text.shape[1] + 8] = 255
    draw_text(picture, text, left, top, INK)
    return picture


def queries(image: np.ndarray, index: np.ndarray, styles: list[SegmentStyle]) -> np.ndarray:
    """What each of the queries says: a mask and a class, or no object."""
    height = round(SIDE * image.shape[0] / max(image.shape[:2]))
    line = height // QUERIES
    panel = np.full((height, SIDE, 3), 255, np.uint8)
    # A query has no number of its own for a class: any of them may find any object.
    found: dict[int, int] = {1: 1, 2: 2, 4: 3}
    for query in range(QUERIES):
        top = query * line
        number = found.get(query, 0)
        mask = (index == number) if number else np.zeros_like(index, bool)
        thumb = np.full((*image.shape[:2], 3), 235, np.uint8)
        thumb[mask] = styles[number - 1].color if number else GREY
        side = line - 10
        thumb = cv2.resize(thumb, (round(side * image.shape[1] / image.shape[0]), side))
        panel[top + 5 : top + 5 + side, 110 : 110 + thumb.shape[1]] = thumb
        says = styles[number - 1].text if number else "no object"
        text = text_mask(f"query {query + 1}", 17)
        draw_text(panel, text, 4, top + (line - text.shape[0]) // 2, INK)
        text = text_mask(says, 21, bold=bool(number))
        draw_text(panel, text, 240, top + (line - text.shape[0]) // 2, INK if number else GREY)
    return panel


def with_text(panel: np.ndarray, lines: list[str]) -> np.ndarray:
    """The panel, as wide as all, over some lines of text."""
    size = 21
    step = text_mask("", size).shape[0]
    cell = np.full((panel.shape[0] + step * len(lines) + 10, SIDE, 3), 255, np.uint8)
    cell[: panel.shape[0], : panel.shape[1]] = panel
    for number, line in enumerate(lines):
        text = text_mask(line, size)
        left = max((SIDE - text.shape[1]) // 2, 0)
        draw_text(cell, text, left, panel.shape[0] + 8 + number * step, INK)
    return cell


if __name__ == "__main__":
    main()
