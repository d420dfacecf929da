"""The augmentations that a config asks for, and how they are applied to label maps."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mask_former.data import large_scale_jitter
from mask_former.data.transforms import (
    CategoryAreaCrop,
    ColorAugmentation,
    InferenceResize,
    RandomCrop,
    ResizeShortestEdge,
)
from mask_former.errors import UserError, check_choice

# DETR's scales before its crop (its section A.4).
_DETR_SCALES = (400, 500, 600)
# Only images of more than 16 : 1 would become longer: those of 1 x 2000 pixels, gigabytes.
_DETR_LONGEST = 10_000
# Axes of OpenCV's flip.
_FLIPS = {T.HFlipTransform: 1, T.VFlipTransform: 0}
# What INPUT.CROP.SIZE is with each INPUT.CROP.TYPE.
_CROP_SIZES = {
    "relative": "shares of height and width, above 0 and at most 1",
    "relative_range": "the least shares of height and width, above 0 and at most 1",
    "absolute": "height and width in pixels",
    "absolute_range": "the least and the largest side in pixels",
}


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations for `cfg.INPUT.DATASET_MAPPER_NAME`.

    In training: resize, crop, colour, flip; for detr_panoptic: flip and, half of the time, DETR's
    resize and crop, before the resize; for *_lsj: flip, large-scale jitter, colour. In
    inference only the resize to the test size, by PIL like the published models'.

    Raises:
        UserError: unknown INPUT.CROP.TYPE; the crop limits a category's area, but instances have
            no label map to look at; numbers of large-scale jitter that make no sense.
    """
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and not (len(sizes) == 2 and sizes[0] <= sizes[1]):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}, but with INPUT.MIN_SIZE_TRAIN_SAMPLING range it "
            "must be the least and the largest size."
        )
    if not is_train:
        return [InferenceResize(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    color = [ColorAugmentation(cfg.INPUT.FORMAT)] if cfg.INPUT.COLOR_AUG_SSD else []
    flip = _random_flip(cfg)
    if cfg.INPUT.DATASET_MAPPER_NAME in large_scale_jitter.NAMES:
        return [*flip, *large_scale_jitter.large_scale_jitter(cfg), *color]
    resize = ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, sampling)
    crop = [_random_crop(cfg)] if cfg.INPUT.CROP.ENABLED else []
    if cfg.INPUT.DATASET_MAPPER_NAME != "detr_panoptic":
        return [resize, *crop, *color, *flip]
    if not crop:
        return [*flip, resize, *color]
    enlarge = ResizeShortestEdge(_DETR_SCALES, _DETR_LONGEST, sample_style="choice")
    zoom = T.AugmentationList([enlarge, *crop])
    return [*flip, T.RandomApply(zoom, prob=0.5), resize, *color]


def _random_flip(cfg: CfgNode) -> list[T.Augmentation]:
    direction = cfg.INPUT.RANDOM_FLIP
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


def _random_crop(cfg: CfgNode) -> T.Augmentation:
    crop = cfg.INPUT.CROP
    _check_crop(crop.TYPE, crop.SIZE)
    if crop.SINGLE_CATEGORY_MAX_AREA >= 1:
        return RandomCrop(crop.TYPE, crop.SIZE)
    if cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_instance":
        raise UserError(
            f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is {crop.SINGLE_CATEGORY_MAX_AREA}, but "
            "mask_former_instance has no label map to measure areas in; set it to 1.0."
        )
    return CategoryAreaCrop(
        crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    )


def _check_crop(kind: str, size: Sequence[float]) -> None:
    check_choice("INPUT.CROP.TYPE", kind, _CROP_SIZES)
    relative = kind.startswith("relative")
    sound = all(0 < side <= 1 if relative else side >= 1 and side % 1 == 0 for side in size)
    if not sound or (kind == "absolute_range" and size[0] > size[1]):
        raise UserError(
            f"INPUT.CROP.SIZE is {list(size)}, but with INPUT.CROP.TYPE {kind} it must be "
            f"{_CROP_SIZES[kind]}."
        )


class LabelledImage:
    """An image and its label map, which augmentations look at and transform in place.

    It replaces Detectron2's `AugInput`, which handles only labels below 256.

    Attributes:
        image: uint8 (H, W, C).
        labels: class or segment of each pixel, uint8 or int32 (H, W), or None.
    """

    def __init__(
        self,
        image: np.ndarray,
        labels: np.ndarray | None = None,
        classes_of: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.image = image
        self.labels = labels
        self._classes_of = classes_of

    @property
    def sem_seg(self) -> np.ndarray:
        """The class of each pixel, for the crop that limits a category's area."""
        return self._classes_of(self.labels)

    def transform(self, transform: T.Transform) -> None:
        """Apply `transform` to the image and to the labels."""
        self.image = transform_image(transform, self.image)
        if self.labels is not None:
            self.labels = transform_labels(transform, self.labels)


def transform_image(transform: T.Transform, image: np.ndarray) -> np.ndarray:
    """Apply `transform` to an image, uint8 (H, W, C)."""
    if type(transform) in _FLIPS:
        # A view that runs backwards would slow down whatever comes after.
        return cv2.flip(image, _FLIPS[type(transform)])
    return transform.apply_image(image)


def transform_labels(transform: T.Transform, labels: np.ndarray) -> np.ndarray:
    """Apply `transform` to a label map, uint8 or int32, (H, W) -> (H', W')."""
    if type(transform) in _FLIPS:
        return cv2.flip(labels, _FLIPS[type(transform)])
    if isinstance(transform, T.ResizeTransform):
        # Detectron2 resizes by PIL, pixel centre to pixel centre like the image, but bytes only.
        size = (transform.new_w, transform.new_h)
        return np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    return np.ascontiguousarray(transform.apply_segmentation(labels))


def pad_to_multiple(maps: Tensor, divisor: int, value: float) -> Tensor:
    """Pad (..., H, W) with `value` at the bottom and the right, never cropping.

    Args:
        maps: image, masks or labels.
        divisor: both sides become multiples of this; 0 or less: no padding.
        value: of the padded pixels.
    """
    height, width = maps.shape[-2:]
    if divisor <= 0 or (height % divisor == 0 and width % divisor == 0):
        return maps
    return F.pad(maps, (0, -width % divisor, 0, -height % divisor), value=value)
