"""SSD's colour augmentation by tables of the 256 levels."""

import random

import cv2
import numpy as np
from detectron2.projects.point_rend import ColorAugSSDTransform

_LEVELS = np.arange(256, dtype=np.uint8)


class ColorAugmentation(ColorAugSSDTransform):
    """Detectron2's `ColorAugSSDTransform`: the same pixels under the same random numbers, faster.

    What happens to a level of brightness, saturation or hue is computed once, not once a pixel.

    Args:
        image_format: channel order, "RGB" or "BGR".
    """

    def __init__(self, image_format: str) -> None:
        super().__init__("BGR")
        self._is_rgb = image_format == "RGB"

    def apply_image(self, img: np.ndarray, interp: str | None = None) -> np.ndarray:
        if not self._is_rgb:
            return super().apply_image(img)
        img = super().apply_image(cv2.cvtColor(img, cv2.COLOR_RGB2BGR))
        return cv2.cvtColor(img, cv2.COLOR_BGR2RGB)

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        return cv2.LUT(img, super().convert(_LEVELS, alpha, beta))

    def hue(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        shift = random.randint(-self.hue_delta, self.hue_delta)
        _map_channel(hsv, 0, ((_LEVELS.astype(int) + shift) % 180).astype(np.uint8))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

    def saturation(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        factor = random.uniform(self.saturation_low, self.saturation_high)
        _map_channel(hsv, 1, super().convert(_LEVELS, factor))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _map_channel(image: np.ndarray, channel: int, table: np.ndarray) -> None:
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(image, channel), table), image, channel)
