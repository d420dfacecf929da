"""Names and colours of classes, and the shades that tell instances of one class apart."""

import colorsys
from collections.abc import Sequence

from detectron2.data import Metadata

from mask_former.data.classes import class_names

Color = tuple[int, int, int]
"""Blue, green, red; each 0..255."""

# Successive multiples of the golden ratio spread evenly over the hue circle, however many there
# are, and neighbours lie far apart.
_GOLDEN_RATIO = 0.61803398875


class Palette:
    """The class names and colours of a data set.

    Missing colours are generated; a class without a name is called by its number.

    Args:
        metadata: Detectron2's `Metadata` of the data set.
    """

    def __init__(self, metadata: Metadata) -> None:
        names = class_names(metadata)
        colors = metadata.get("stuff_colors") or metadata.get("thing_colors") or []
        self._names = names
        # Colours that do not cover the classes belong to another list of classes.
        self._colors: Sequence[Sequence[int]] = colors if len(colors) >= len(names) else []

    def name(self, category: int) -> str:
        """The name of a contiguous class id; of several synonyms the first."""
        if category >= len(self._names):
            return f"class {category}"
        return self._names[category].split(",")[0].strip()

    def color(self, category: int, shade: int = 0) -> Color:
        """The colour of a contiguous class id.

        Args:
            category: the class id.
            shade: 0 gives the class colour itself, higher numbers give relatives of it.
        """
        if category < len(self._colors):
            red, green, blue = (value / 255 for value in self._colors[category])
        else:
            red, green, blue = colorsys.hsv_to_rgb(category * _GOLDEN_RATIO % 1, 0.65, 0.95)
        if shade:
            hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
            turn = shade * _GOLDEN_RATIO % 1 - 0.5
            hue += 0.12 * turn
            # Away from black and white, where hues cannot be told apart.
            lightness = min(max(lightness + 0.35 * (shade * 0.37 % 1 - 0.5), 0.3), 0.75)
            red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
        return round(blue * 255), round(green * 255), round(red * 255)
