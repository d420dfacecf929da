"""Large-scale jitter: scale an image to almost nothing or to twice its size, then cut out a square.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation",
CVPR 2021, section 3. The square is not filled up here: the mapper pads, as each annotation needs.
"""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from mask_former.data.transforms import ResizeTransform, at_least_one_pixel
from mask_former.errors import UserError

# What INPUT.DATASET_MAPPER_NAME must be.
NAMES = ("coco_instance_lsj", "coco_panoptic_lsj", "semantic_lsj")


def large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """The augmentations that INPUT.{IMAGE_SIZE, MIN_SCALE, MAX_SCALE} describe.

    Raises:
        UserError: a size below 1, scales that are no interval above 0, or a crop besides.
    """
    size, low, high = cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE
    if size < 1 or not 0 < low <= high:
        raise UserError(
            f"Large-scale jitter needs INPUT.IMAGE_SIZE of at least 1 and 0 < MIN_SCALE <= "
            f"MAX_SCALE, but they are {size}, {low} and {high}."
        )
    if cfg.INPUT.CROP.ENABLED:
        raise UserError(
            f"INPUT.CROP.ENABLED is True, but {cfg.INPUT.DATASET_MAPPER_NAME} "
            "(INPUT.DATASET_MAPPER_NAME) crops by itself, to INPUT.IMAGE_SIZE. Set it to False."
        )
    return [ResizeScale(low, high, size, size), T.FixedSizeCrop((size, size), pad=False)]


class ResizeScale(T.ResizeScale):
    """Detectron2's resize to a random scale, with PyTorch's bilinear filter in place of PIL's."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = at_least_one_pixel(super().get_transform(image))
        return ResizeTransform(resize.h, resize.w, resize.new_h, resize.new_w)
