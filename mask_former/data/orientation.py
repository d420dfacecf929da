"""The headers of image files: sizes, bits, and the orientation of EXIF."""

import struct
from typing import NamedTuple

from PIL import Image

PNG, PNG_START = b"\x89PNG\r\n\x1a\n", 26  # bytes, with the header

# Tags; what undoes the orientation.
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 256, 257
_TIFF_BITS, _TIFF_PLANES = 258, 284
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: height and width in the file.
        orientation: of EXIF; 1: as it is in the file.
    """

    size: tuple[int, int]
    orientation: int

    def shown(self, exif: bool) -> tuple[int, int]:
        """Height and width after the orientation of EXIF is applied, if `exif`."""
        return self.size[::-1] if exif and self.orientation >= 5 else self.size


def header_of(image: Image.Image) -> Header:
    """The header of an image that is opened, and not yet loaded."""
    size = (image.height, image.width)
    if image.format == "TIFF":  # of which PIL says the size after it is turned
        size = (image.tag_v2[_TIFF_HEIGHT], image.tag_v2[_TIFF_WIDTH])
    return Header(size, orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """The orientation of EXIF, in 1..8; 1 where there is none, or no valid one."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # PIL would decode the whole image to look for it
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of broken EXIF
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def oriented(image: Image.Image, orientation: int, exif: bool) -> Image.Image:
    """The image, turned by the orientation of its header if `exif`, or as it is in the file."""
    if orientation == 1:
        return image
    image.load()
    is_turned = orientation_of(image) == 1  # by PIL, as it does with TIFF
    if is_turned == exif:
        return image
    if is_turned:  # back; a quarter has another inverse
        orientation = {6: 8, 8: 6}.get(orientation, orientation)
    return image.transpose(_TRANSPOSE[orientation])


def depth_of(image: Image.Image) -> int:
    """Bits a pixel and channel of an opened PNG or TIFF, which is left where it stands; 8 of other
    formats."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS, (1,)))
    if image.format != "PNG":
        return 8
    position = image.fp.tell()
    image.fp.seek(0)
    header = png_header(image.fp.read(PNG_START))
    image.fp.seek(position)
    return header.depth


def has_large_planes(image: Image.Image) -> bool:
    """Whether it is a TIFF whose channels follow each other, of more than 8 bits, which PIL takes
    for 8."""
    planes = image.format == "TIFF" and image.tag_v2.get(_TIFF_PLANES) == 2
    return planes and depth_of(image) > 8 and len(image.getbands()) > 1


class PngHeader(NamedTuple):
    width: int
    height: int
    depth: int
    color: int


def png_header(data: bytes) -> PngHeader:
    """The header of a PNG, by the first bytes of the file; OSError if it is none."""
    if not data.startswith(PNG) or len(data) < PNG_START:
        raise OSError("no PNG, or a broken one")
    header = PngHeader(*struct.unpack(">IIBB", data[16:PNG_START]))
    if header.width * header.height > 2 * Image.MAX_IMAGE_PIXELS:
        raise OSError(f"{header.width} x {header.height} pixels are too many")
    return header
