"""What the pixels of label maps mean: from the values or colours of a file to labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mask_former.data.coco_format import decode_ids, encode_ids
from mask_former.data.label_map import run_lengths
from mask_former.errors import UserError, listed

Rgb = tuple[int, int, int]

_UNKNOWN = -1


class LabelImage(NamedTuple):
    """A label map as it is in its file.

    Attributes:
        pixels: (H, W) or (H, W, C).
        palette: RGB of each index, uint8 (256, 3), if the pixels are indices; else None.
    """

    pixels: np.ndarray
    palette: np.ndarray | None = None


@dataclass(frozen=True)
class LabelEncoding:
    """How the label maps of a data set say which label a pixel has.

    Attributes:
        kind: "values": numbers, which may be indices into a palette; "colors"; or "auto": values
            where the file has one channel, else colours, if they are known.
        values: the label of each value.
        colors: the label of each colour. Empty: they are not known.
    """

    kind: str
    values: Mapping[int, int]
    colors: Mapping[Rgb, int] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether files hold the labels themselves."""
        return self.kind == "values" and all(v == label for v, label in self.values.items())

    def decode(self, image: LabelImage, file_name: str) -> np.ndarray:
        """The label of each pixel, uint8 if that holds all labels, else int32: (H, W).

        Args:
            image: the content of the file.
            file_name: for error messages.

        Raises:
            UserError: a value or colour has no meaning, or the channels do not fit.
        """
        pixels, palette = image
        if pixels.dtype.kind not in "uib":
            raise UserError(f"{file_name}: labels are whole numbers, but these are {pixels.dtype}.")
        has_colors = self._has_colors(image, file_name)
        if not has_colors:
            pixels = self._one_channel(pixels, file_name)
        elif palette is None:
            pixels = decode_ids(np.ascontiguousarray(pixels[..., :3]))
        (found,), lengths = run_lengths(pixels)
        if has_colors:
            codes = found if palette is None else _codes(palette)[found]
            labels = _look_up(codes, _codes(self.colors), self.colors.values())
        else:
            codes = found
            labels = _look_up(codes, np.array(list(self.values)), self.values.values())
            if palette is not None and self.kind == "auto" and self.colors:
                self._check_palette(found, palette, file_name)
        if (unknown := labels == _UNKNOWN).any():
            self._raise_unknown(np.unique(codes[unknown]), has_colors, file_name)
        dtype = np.uint8 if max(self.values.values()) < 256 else np.int32
        return labels.astype(dtype).repeat(lengths).reshape(pixels.shape)

    def _has_colors(self, image: LabelImage, file_name: str) -> bool:
        channels = image.pixels.shape[2] if image.pixels.ndim == 3 else 1
        if self.kind == "colors" and channels < 3 and image.palette is None:
            raise UserError(
                f"{file_name} is grey and has no palette, but ENCODING is colors. Set it to values,"
                " or to auto where both kinds occur."
            )
        return self.kind == "colors" or (self.kind == "auto" and channels > 2 and bool(self.colors))

    def _one_channel(self, pixels: np.ndarray, file_name: str) -> np.ndarray:
        if pixels.dtype == bool:  # black and white
            return pixels.astype(np.uint8) * (1 if 1 in self.values else 255)
        if pixels.ndim == 2:
            return pixels
        grey, colors = pixels[..., 0], pixels[..., 1 : 3 if pixels.shape[2] > 2 else 1]
        if (colors != grey[..., None]).any():
            raise UserError(
                f"{file_name} has colours, where numbers are expected: name the colour of each "
                "class with COLORS or CLASS_FILE, and set ENCODING to auto or colors."
            )
        return grey

    def _check_palette(self, indices: np.ndarray, palette: np.ndarray, file_name: str) -> None:
        """Raise UserError if the colours of the palette are those of other classes: programs that
        choose a palette by themselves number the colours as they like."""
        for index in np.unique(indices).tolist():
            color, label = tuple(palette[index].tolist()), self.values.get(index)
            if self.colors.get(color, label) != label:
                raise UserError(
                    f"{file_name}: the pixels of index {index} have the colour {color} in its "
                    f"palette, which is that of label {self.colors[color]}, but the value {index} "
                    f"is that of label {label}. Which one counts? Set ENCODING to values or colors."
                )

    def _raise_unknown(self, codes: np.ndarray, are_colors: bool, file_name: str) -> None:
        if are_colors:
            colors = [tuple(color) for color in encode_ids(codes[None])[0].tolist()]
            raise UserError(
                f"{file_name} holds the colours {listed(colors)}, which no class has and which are "
                "not ignored. Add them to COLORS (or CLASS_FILE), or to IGNORE."
            )
        raise UserError(
            f"{file_name} holds the values {listed(codes)}, but classes and what is ignored have "
            f"the values {listed(sorted(self.values))}. Correct CLASSES or LABEL_VALUES, or add "
            "them to IGNORE."
        )


def _codes(colors: Iterable[Rgb] | np.ndarray) -> np.ndarray:
    """Colours as numbers, int32 (N,)."""
    return decode_ids(np.array(list(colors), dtype=np.uint8)[None])[0]


def _look_up(codes: np.ndarray, known: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """The label of each code, by those of the `known` codes; int32, like `codes`."""
    order = np.argsort(known)
    nearest = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[nearest] == codes, np.array(list(labels), np.int32)[nearest], _UNKNOWN)
