"""Reading annotated label maps."""

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError


def read_panoptic_map(path: str) -> np.ndarray:
    """Read a panoptic PNG in COCO's format: segment ids = R + 256 G + 256^2 B, int32 (H, W).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no RGB image, or cannot be decoded.
    """
    rgb = _read(path)
    if rgb.ndim != 3:
        raise ValueError(f"{path}: a panoptic annotation is an RGB image, this one is not")
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red + (green << 8) + (blue << 16)


def read_label_map(path: str) -> np.ndarray:
    """Read a semantic annotation: an image whose pixels are class ids, integers (H, W).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has several channels, or cannot be decoded.
    """
    labels = _read(path)
    if labels.ndim != 2:
        raise ValueError(
            f"{path}: a semantic annotation has one channel, this one has {labels.shape[2]}"
        )
    return labels


def _read(path: str) -> np.ndarray:
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            return np.asarray(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"the annotation {path} is not there") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error
