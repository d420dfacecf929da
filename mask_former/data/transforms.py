"""Augmentations of Detectron2 computed faster, under the same random numbers."""

import random

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from torch.nn import functional as F

from mask_former.data.label_map import count_pixels

_LEVELS = np.arange(256, dtype=np.uint8)


def at_least_one_pixel(transform: T.Transform) -> T.Transform:
    """A transform that, if it is a resize, leaves both sides at least a pixel: Detectron2 rounds
    the shorter side of an image of 1 x 2000 pixels down to 0."""
    if isinstance(transform, T.ResizeTransform):
        transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
    return transform


class InferenceResize(T.ResizeShortestEdge):
    """Detectron2's resize of test images, by PIL like that of the published models."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return at_least_one_pixel(super().get_transform(image))


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resize of training images, with PyTorch's bilinear filter in place of PIL's.

    It takes a fifth to a third of the time, with AVX2 as with AVX-512. PyTorch rounds the filter's
    weights to 16 bits, PIL to 32: fewer than one in a hundred values of photographs differ, by one
    level of 255. Label maps are resized by PIL.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = at_least_one_pixel(super().get_transform(image))
        if isinstance(resize, T.NoOpTransform):
            return resize
        return ResizeTransform(resize.h, resize.w, resize.new_h, resize.new_w)


class ResizeTransform(T.ResizeTransform):
    """What `ResizeShortestEdge` does to an image, uint8 (H, W, C), its labels and coordinates."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if interp is not None:  # label maps
            return super().apply_image(img, interp)
        # Channels stay last in memory if the strides of the batch say so, too: twice as fast.
        image = torch.tensor(np.ascontiguousarray(img))[None].permute(0, 3, 1, 2)
        size = (self.new_h, self.new_w)
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        return image[0].permute(1, 2, 0).numpy()


class RandomCrop(T.RandomCrop):
    """Detectron2's random crop, of at least a pixel."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = super().get_crop_size(image_size)
        return max(height, 1), max(width, 1)


class CategoryAreaCrop(T.RandomCrop_CategoryAreaConstraint):
    """Detectron2's random crop of which no class fills more than a given share."""

    def __init__(
        self, crop_type: str, crop_size: tuple, max_area: float, ignored_category: int
    ) -> None:
        super().__init__(crop_type, crop_size, max_area, ignored_category)
        self.crop_aug = RandomCrop(crop_type, crop_size)

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
        for _ in range(10):
            crop = self.crop_aug.get_transform(sem_seg)
            labels, counts = count_pixels(crop.apply_segmentation(sem_seg))
            counts = counts[labels != self.ignored_category]
            if len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area:
                break
        return crop


class ColorAugmentation(ColorAugSSDTransform):
    """SSD's colour augmentation: Detectron2's `ColorAugSSDTransform`, and the same pixels.

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
