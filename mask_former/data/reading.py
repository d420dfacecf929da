"""Reading image files: pictures, label maps and panoptic PNG. Every error names the file.

Only formats of pictures are opened, and only where the header says what was expected: PIL would
start other programs for some formats, and a header may promise gigabytes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from mask_former.data.coco_format import decode_ids
from mask_former.data.label_encoding import LabelImage
from mask_former.data.missing_files import elsewhere
from mask_former.data.orientation import (
    PNG,
    PNG_START,
    Header,
    depth_of,
    has_large_planes,
    header_of,
    orientation_of,
    oriented,
    png_header,
)
from mask_former.errors import MissingFileError, UserError

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""PIL's names of the formats that are opened."""

_LOSSLESS = ("BMP", "GIF", "PNG", "PPM", "TIFF")
_LOSSY_TIFF = ("jpeg", "old-jpeg", "tiff_jpeg", "webp")
_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
# Formats whose 16 bits PIL may give as 32; they have no more.
_16_BIT_AS_32 = ("PNG", "PPM")
_PNG_GREY, _PNG_COLOURS = 0, (2, 3, 6)


def read_image(
    file_name: str | Path,
    image_format: str,
    *,
    size: tuple[int, int] | None = None,
    exif: bool = True,
) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3).

    Grey values of 16 bits are divided by 257, so that 65535 becomes 255; transparency is dropped.

    Args:
        file_name: the image file, in one of `FORMATS`.
        image_format: channel order, "RGB" or "BGR".
        size: height and width that it must have, if known; others are refused before the pixels
            are decoded.
        exif: whether the orientation of EXIF is applied (INPUT.EXIF_ORIENTATION).

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is no picture, a broken one, of another size, or its pixels are
            floating-point numbers, of 32 bits, or 16-bit planes.
    """
    with _opened(file_name) as image:
        header = header_of(image)
        if size is not None:
            check_size_of_file(file_name, header, size, exif)
        if has_large_planes(image):
            raise UserError(
                f"{file_name} has 16-bit channels one after another (PlanarConfiguration 2), which "
                "PIL misreads. Save it as PNG, or with 8 bits."
            )
        has_16_bits = image.mode in _16_BIT or (image.mode == "I" and image.format in _16_BIT_AS_32)
        image = oriented(image, header.orientation, exif)
        if has_16_bits:
            grey = np.asarray(image).astype(np.int64)
            pixels = cv2.cvtColor(((grey + 128) // 257).astype(np.uint8), cv2.COLOR_GRAY2RGB)
        elif image.mode in ("F", "I"):
            kind = "floating-point numbers" if image.mode == "F" else "32 bits"
            raise UserError(
                f"{file_name} has pixels of {kind}, whose black and white nobody knows. Convert it "
                "to 8 or 16 bits."
            )
        else:
            pixels = np.asarray(image.convert("RGB"))
        # A view that runs backwards would slow down what comes after.
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if image_format == "BGR" else pixels


def read_labels(file_name: str | Path) -> np.ndarray:
    """Read a label map: bool, uint8, uint16 or int32 (H, W).

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is broken, in a lossy format, or has not one channel of integers.
    """
    labels = read_lossless(file_name)
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise UserError(
            f"{file_name}: a label map has one channel of integers, but this image is "
            f"{labels.dtype} {labels.shape}."
        )
    return labels


def read_lossless(file_name: str | Path) -> np.ndarray:
    """The values of an image file as they are in it, (H, W) or (H, W, C). Raises as
    `read_label_image`."""
    return read_label_image(file_name).pixels


def read_label_image(file_name: str | Path) -> LabelImage:
    """The values of an image file as they are in it, and its palette, if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is broken, in a format that may change values, or PIL would scale them.
    """
    with _opened(file_name) as image:
        compression = image.info.get("compression") if image.format == "TIFF" else None
        if image.format not in _LOSSLESS or compression in _LOSSY_TIFF:
            raise UserError(
                f"{file_name} is {image.format}{f' ({compression})' if compression else ''}, which "
                "changes labels at their borders. Make label maps again, as PNG."
            )
        _check_values_are_kept(file_name, image)
        if getattr(image, "n_frames", 1) > 1:
            raise UserError(
                f"{file_name} has {image.n_frames} frames, but a label map is one. Save it as PNG."
            )
        orientation = orientation_of(image)  # of a TIFF, PIL forgets it once it is loaded
        palette = None
        if image.mode == "P":
            palette = np.zeros((256, 3), dtype=np.uint8)
            colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            palette[: len(colors)] = colors
        return LabelImage(np.asarray(oriented(image, orientation, exif=False)), palette)


def read_ids(file_name: str | Path) -> np.ndarray:
    """Segment ids of a panoptic PNG in COCO's format, int32 (H, W).

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is broken, or no PNG of 8-bit colours.
    """
    with explained_read_errors(file_name):
        with PathManager.open(str(file_name), "rb") as file:
            data = file.read()
        header = png_header(data)
        if header.depth > 8 or header.color not in _PNG_COLOURS:
            kind = "grey values" if header.color not in _PNG_COLOURS else "colours"
            raise UserError(
                f"{file_name} has {kind} of {header.depth} bits, but a panoptic PNG has colours of "
                "8 bits: the segment id is R + 256 G + 65536 B."
            )
        # Faster than PIL, and it notices damage that PIL passes over.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
        if image is None:
            raise OSError("no PNG, or a broken one")
        return decode_ids(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def read_header(file_name: str | Path) -> Header:
    """The header of an image file. Raises as `read_image`."""
    with _opened(file_name) as image:
        return header_of(image)


def read_size(file_name: str | Path) -> tuple[int, int]:
    """Height and width of a label map, which has no EXIF, by its header. Raises as `read_image`."""
    with explained_read_errors(file_name):
        with PathManager.open(str(file_name), "rb") as file:
            start = file.read(PNG_START)
        if not start.startswith(PNG):
            return read_header(file_name).size
        header = png_header(start)  # several times as fast as PIL
        return header.height, header.width


def check_size_of_file(
    file_name: str | Path, header: Header, size: tuple[int, int], exif: bool
) -> None:
    """Raise UserError unless an image has the size (height, width) that its record says."""
    shown = header.shown(exif)
    if shown == tuple(size):
        return
    hint = "Correct height and width in the annotation."
    if header.orientation >= 5 and shown[::-1] == tuple(size):
        hint = (
            f"Its EXIF orientation, {header.orientation}, turns it by 90 degrees. If it was "
            f"annotated {'without' if exif else 'with'} that, set INPUT.EXIF_ORIENTATION "
            f"{not exif}; else correct height and width."
        )
    raise UserError(
        f"Sizes differ: {file_name} is {shown[1]} x {shown[0]} (width x height), but its record "
        f"says {size[1]} x {size[0]}. {hint}"
    )


def check_same_size(
    file_name: str | Path,
    size: tuple[int, int],
    image_file: str | Path,
    image_size: tuple[int, int],
) -> None:
    """Raise UserError unless a label map has the size (height, width) of its image."""
    if tuple(size) == tuple(image_size):
        return
    header, hint = read_header(image_file), ""
    if header.orientation >= 5 and tuple(size) == tuple(image_size)[::-1]:
        exif = header.shown(True) == tuple(image_size)
        hint = (
            f" The EXIF orientation of the image, {header.orientation}, "
            f"{'turns' if exif else 'would turn'} it by 90 degrees: set INPUT.EXIF_ORIENTATION "
            f"{not exif} if the labels were drawn {'without' if exif else 'with'} that."
        )
    raise UserError(
        f"Sizes differ: {file_name} is {size[1]} x {size[0]} (width x height), but its image "
        f"{image_file} is {image_size[1]} x {image_size[0]}.{hint}"
    )


def check_image_format(image_format: str) -> None:
    """Raise UserError unless INPUT.FORMAT is one that models take."""
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"INPUT.FORMAT is {image_format!r}, but images are read as RGB or BGR.")


def _check_values_are_kept(file_name: str | Path, image: Image.Image) -> None:
    """Raise UserError where PIL would change the values of an image that is not yet loaded: it
    knows grey values of 8, 16 and 32 bits, and colours of 8."""
    bits = depth_of(image)
    if image.mode == "L" and bits < 8:
        raise UserError(
            f"{file_name} has fewer than 8 bits a pixel, which are read as shades of grey, "
            "not as numbers. Save it with 8 bits."
        )
    if bits > 8 and len(image.getbands()) > 1:
        raise UserError(
            f"{file_name} has several channels of {bits} bits, of which only the upper 8 are read. "
            "Save numbers as grey values of 8 or 16 bits, colours with 8."
        )
    codec, *_, options = image.tile[0]
    white = 65535 if image.mode == "I" else 255
    if codec.startswith("ppm") and isinstance(options, tuple) and options[-1] != white:
        raise UserError(
            f"{file_name} has the largest value {options[-1]}, by which the others are scaled. "
            "Save it as PNG."
        )


@contextmanager
def _opened(file_name: str | Path) -> Iterator[Image.Image]:
    with (
        explained_read_errors(file_name),
        PathManager.open(str(file_name), "rb") as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        yield image


@contextmanager
def explained_read_errors(file_name: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading an image into an error that names the file.

    Raises:
        FileNotFoundError, UserError: as `read_image`.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        place = "" if os.path.isabs(file_name) else f" (from {os.getcwd()})"
        raise MissingFileError(
            f"{file_name}{place} is missing. Is the data set complete?{elsewhere(file_name)}"
        ) from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error...
        raise UserError(
            f"{file_name} cannot be read as an image ({type(error).__name__}: {error}). "
            f"Is it damaged, or only partly downloaded? Formats are {', '.join(FORMATS)}."
        ) from error
