"""Smooth text on NumPy images. OpenCV's own fonts are made of a few straight strokes."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mask_former.visualization.palette import Color


@lru_cache(maxsize=64)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    # matplotlib, which Detectron2 needs, brings a font with many scripts.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=4096)
def text_mask(text: str, size: int, bold: bool = False) -> np.ndarray:
    """Render one line of text.

    Args:
        text: the line.
        size: the height of a line in pixels, at least 1; it is the same for every text.
        bold: a bold face.

    Returns:
        How much of each pixel is ink, uint8 (height, width), 0..255. It is shared: read only.
    """
    font = _font(size, bold)
    ascent, descent = font.getmetrics()
    canvas = Image.new("L", (max(round(font.getlength(text)), 1), ascent + descent))
    ImageDraw.Draw(canvas).text((0, 0), text, fill=255, font=font)
    mask = np.asarray(canvas)
    mask.flags.writeable = False
    return mask


def draw_text(image: np.ndarray, mask: np.ndarray, left: int, top: int, color: Color) -> None:
    """Draw a rendered text into `image`, in place; what lies outside of the image is cut off.

    Args:
        image: uint8 (H, W, 3), BGR.
        mask: the result of `text_mask`.
        left, top: the pixel at which the mask's corner goes.
        color: of the ink.
    """
    height, width = image.shape[:2]
    mask = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    top, left = max(top, 0), max(left, 0)
    region = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    blend(region, mask[..., None] / np.float32(255), color)


def blend(region: np.ndarray, weight: np.ndarray | float, color: Color) -> None:
    """Move `region`, uint8 (H, W, 3), towards `color` by `weight` in [0, 1], in place."""
    moved = region + weight * (np.asarray(color, np.float32) - region)
    region[...] = (moved + 0.5).astype(np.uint8)
