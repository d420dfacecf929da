"""Writing images, label maps and JSON. Where the disk is full, the error names the file."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask_former.checkpoint.atomic_write import (
    explained_write_errors,
    make_folder_of,
    replaced_when_complete,
)
from mask_former.errors import NonFiniteError

_JPEG_QUALITY = 95


def write_image(path: str | Path, image: np.ndarray, image_format: str = "RGB") -> None:
    """Write an image; the folder is made if it is missing.

    Args:
        path: its suffix names the format; PNG is lossless.
        image: uint8 (H, W, 3), or uint8 or uint16 (H, W).
        image_format: channel order, "RGB" or "BGR".

    Raises:
        UnwritableFileError: the file system refuses it.
    """
    path = Path(path)
    if image.ndim == 3 and image_format == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if is_jpeg else []
    # Several times as fast as PIL, in files about as large. `cv2.imwrite` would not say why it
    # cannot write.
    _, encoded = cv2.imencode(path.suffix, image, quality)
    with explained_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file, which is there as a whole or not at all; the folder is made if missing.

    Raises:
        UnwritableFileError: the file system refuses it.
        NonFiniteError: the content holds NaN or infinity, which JSON has no number for.
    """
    try:
        text = json.dumps(content, allow_nan=False)  # several times as fast as json.dump
    except ValueError as error:
        raise NonFiniteError(f"{path} is not written: {error}. {NonFiniteError.REMEDY}") from error
    make_folder_of(path)
    with replaced_when_complete(path) as file:
        file.write(text.encode())
