"""Names and colours of classes, and the shades that tell instances of one class apart."""

import colorsys

from detectron2.data import Metadata

from mask_former.data.classes import GOLDEN_RATIO, class_color, class_names

Color = tuple[int, int, int]
"""Blue, green, red; each 0..255."""


class Palette:
    """The class names and colours of a data set.

    A class without a name is called by its number.

    Args:
        metadata: Detectron2's `Metadata` of the data set.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._names = class_names(metadata)

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
        red, green, blue = (value / 255 for value in class_color(self._metadata, category))
        if shade:
            hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
            turn = shade * GOLDEN_RATIO % 1 - 0.5
            hue += 0.12 * turn
            # Away from black and white, where hues cannot be told apart.
            lightness = min(max(lightness + 0.35 * (shade * 0.37 % 1 - 0.5), 0.3), 0.75)
            red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
        return round(blue * 255), round(green * 255), round(red * 255)
