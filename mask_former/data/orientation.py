"""The headers of image files: sizes, and the orientation of EXIF."""

from typing import NamedTuple

from PIL import Image

# Tags; what undoes the orientation.
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 256, 257
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
