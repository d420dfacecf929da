"""What the pixels of label maps mean: from the values or colours of a file to labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mask_former.data.coco_format import decode_ids
from mask_former.data.label_map import count_pixels, run_lengths
from mask_former.errors import UserError, listed

Color = tuple[int, int, int]

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
    colors: Mapping[Color, int] = field(default_factory=dict)

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
        if self._has_colors(image, file_name):
            meant = pixels[..., :3] if palette is None else palette[pixels]
            table = None if palette is None else self._of_colors(palette[None])[0]
            labels = self._of_colors(meant) if table is None else table[pixels]
        else:
            meant = self._one_channel(pixels, file_name)
            labels = self._of_values(meant)
            if palette is not None and self.kind == "auto" and self.colors:
                self._check_palette(meant, labels, palette, file_name)
        unknown = labels == _UNKNOWN
        if unknown.any():
            self._raise_unknown(meant[unknown], file_name)
        return labels.astype(np.uint8) if max(self.values.values()) < 256 else labels

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
                f"{file_name} has colours, whose meaning is not known: name the colour of each "
                "class with COLORS or CLASS_FILE, and set ENCODING to auto or colors."
            )
        return grey

    def _of_values(self, pixels: np.ndarray) -> np.ndarray:
        # The last entry is for all larger values and, as table[-1], for negative ones.
        table = np.full(max(self.values) + 2, _UNKNOWN, dtype=np.int32)
        for value, label in self.values.items():
            table[value] = label
        last = len(table) - 1
        if last < np.iinfo(pixels.dtype).max:
            pixels = np.clip(pixels, -1 if pixels.dtype.kind == "i" else 0, last)
        return table[pixels]

    def _of_colors(self, rgb: np.ndarray) -> np.ndarray:
        """The label of each pixel of uint8 (H, W, 3)."""
        codes = _codes(self.colors)
        order = np.argsort(codes)
        labels = np.fromiter(self.colors.values(), np.int32)
        (found,), lengths = run_lengths(decode_ids(np.ascontiguousarray(rgb)))
        nearest = order[np.searchsorted(codes, found, sorter=order).clip(max=len(codes) - 1)]
        of_runs = np.where(codes[nearest] == found, labels[nearest], _UNKNOWN).astype(np.int32)
        return of_runs.repeat(lengths).reshape(rgb.shape[:2])

    def _check_palette(
        self, pixels: np.ndarray, labels: np.ndarray, palette: np.ndarray, file_name: str
    ) -> None:
        """Raise UserError if the colours of the palette are those of other classes: programs that
        choose a palette by themselves number the colours as they like."""
        for index in count_pixels(pixels)[0]:
            color = tuple(palette[index].tolist())
            label = self.values.get(int(index))
            if self.colors.get(color, label) != label:
                raise UserError(
                    f"{file_name}: the pixels of index {index} have the colour {color} in its "
                    f"palette, which is that of class {self.colors[color]}, not of the class of "
                    f"value {index}. Which one counts? Set ENCODING to values or to colors."
                )

    def _raise_unknown(self, found: np.ndarray, file_name: str) -> None:
        if found.ndim == 2:
            colors = [tuple(color) for color in np.unique(found, axis=0).tolist()]
            raise UserError(
                f"{file_name} holds the colours {listed(colors)}, which no class has and which are "
                "not ignored. Add them to COLORS (or CLASS_FILE), or to IGNORE."
            )
        raise UserError(
            f"{file_name} holds the values {listed(np.unique(found))}, but classes and what is "
            f"ignored have the values {listed(sorted(self.values))}. Correct CLASSES or "
            "LABEL_VALUES, or add them to IGNORE."
        )


def _codes(colors: Iterable[Color]) -> np.ndarray:
    """Colours as numbers, int32 (N,)."""
    return decode_ids(np.array(list(colors), dtype=np.uint8)[None])[0]
