"""A training mapper as one writes it by Detectron2's tutorial, step after step."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F


class PlainMapper:
    """Read the files, augment, compare the label map with every segment, stack the masks, pad."""

    def __init__(self, cfg: CfgNode) -> None:
        self.augmentations = T.AugmentationList(augmentations(cfg))
        self.panoptic = cfg.INPUT.DATASET_MAPPER_NAME.endswith("panoptic")
        self.divisibility = cfg.INPUT.SIZE_DIVISIBILITY
        self.ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        result = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        image = detection_utils.read_image(record["file_name"], format="RGB")
        detection_utils.check_image_size(record, image)
        if self.panoptic:
            inputs = T.AugInput(image)
            transforms = self.augmentations(inputs)
            colors = detection_utils.read_image(record["pan_seg_file_name"], format="RGB")
            ids = rgb_to_id(transforms.apply_segmentation(colors))
            classes, masks = [], []
            for segment in record["segments_info"]:
                mask = ids == segment["id"]
                if not segment["iscrowd"] and mask.any():
                    classes.append(segment["category_id"])
                    masks.append(mask)
        else:
            labels = detection_utils.read_image(record["sem_seg_file_name"])
            inputs = T.AugInput(image, sem_seg=labels)
            self.augmentations(inputs)
            labels = inputs.sem_seg
            classes = [c for c in np.unique(labels) if c != self.ignore_value]
            masks = [labels == c for c in classes]
            labels = torch.as_tensor(labels.astype("int64"))
            result["sem_seg"] = self.pad(labels, self.ignore_value)

        image = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        result["image"] = self.pad(image, 128)
        instances = Instances(tuple(result["image"].shape[1:]))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        masks = [self.pad(torch.from_numpy(np.ascontiguousarray(m)), False) for m in masks]
        masks = torch.zeros((0, *instances.image_size)) if not masks else torch.stack(masks)
        instances.gt_masks = BitMasks(masks)
        result["instances"] = instances
        return result

    def pad(self, x: Tensor, value: float) -> Tensor:
        """Pad (..., H, W) to multiples of the divisibility."""
        if self.divisibility <= 0:
            return x
        height, width = x.shape[-2:]
        padding = (0, -width % self.divisibility, 0, -height % self.divisibility)
        return F.pad(x, padding, value=value)


def augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Detectron2's, one for each step of the recipe."""
    keys = cfg.INPUT
    resize = T.ResizeShortestEdge(
        keys.MIN_SIZE_TRAIN, keys.MAX_SIZE_TRAIN, keys.MIN_SIZE_TRAIN_SAMPLING
    )
    crop = T.RandomCrop_CategoryAreaConstraint(
        keys.CROP.TYPE,
        keys.CROP.SIZE,
        keys.CROP.SINGLE_CATEGORY_MAX_AREA,
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    )
    if keys.DATASET_MAPPER_NAME == "detr_panoptic":
        # It limits no category's area, and has no labels to look at.
        zoom = [T.ResizeShortestEdge([400, 500, 600], sample_style="choice"), crop.crop_aug]
        return [T.RandomFlip(), T.RandomApply(T.AugmentationList(zoom), prob=0.5), resize]
    color = [ColorAugSSDTransform(keys.FORMAT)] if keys.COLOR_AUG_SSD else []
    return [resize, crop, *color, T.RandomFlip()]


def rgb_to_id(color: np.ndarray) -> np.ndarray:
    """COCO's segment ids of the colours of its panoptic PNG, int32 (H, W)."""
    color = color.astype(np.int32)
    return color[:, :, 0] + 256 * color[:, :, 1] + 256 * 256 * color[:, :, 2]
