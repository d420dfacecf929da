"""What a model learns from an annotation: one class label and one mask for every segment.

A mask classification model sees a semantic, a panoptic and an instance annotation alike, as a set
of segments (paper, section 3.2); they differ only in how the set is made, and that is this file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data.transforms import Transform
from detectron2.structures import polygons_to_bitmask
from numpy.typing import ArrayLike
from torch import Tensor

from mask_former.structures import Target


def semantic_target(label_map: np.ndarray, ignore_value: int) -> Target:
    """One segment for each class that is present, in ascending order of the classes.

    Args:
        label_map: class of each pixel, integers (H, W). Bytes are fastest, here and below.
        ignore_value: label of the pixels that belong to no class.
    """
    labels = _present(label_map)
    labels = labels[labels != ignore_value]
    return Target(
        torch.from_numpy(labels.astype(np.int64)),
        _masks(label_map, labels),
        valid=torch.from_numpy(label_map != ignore_value),
    )


def panoptic_target(id_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]]) -> Target:
    """One segment for each thing and each stuff class that is visible, in the order given.

    Crowds are left out: nobody can say how many segments they are. They are not valid, nor are
    pixels of no segment.

    Args:
        id_map: segment id of each pixel, integers (H, W).
        segments_info: the segments with their `id`, `category_id` and, optionally, `iscrowd`.
            Those that do not occur in `id_map` (any more, after a crop) are left out.
    """
    segments = [segment for segment in segments_info if not segment.get("iscrowd", 0)]
    labels = torch.tensor([segment["category_id"] for segment in segments], dtype=torch.int64)
    masks = _masks(id_map, [segment["id"] for segment in segments])
    return _visible(labels, masks, valid=_union(masks))


def instance_target(
    annotations: Sequence[Mapping[str, Any]], transforms: Transform, size: tuple[int, int]
) -> Target:
    """One segment for each visible instance, in the order given; segments may overlap.

    Polygons are transformed as polygons and rasterized once, at the new size, so that their
    borders stay smooth; run lengths are decoded and transformed as masks. Crowds are left out, and
    their pixels are not valid.

    Args:
        annotations: Detectron2's instance annotations, `segmentation` being polygons or COCO's
            run-length encoding.
        transforms: what happened to the image.
        size: height and width of the image after `transforms`.
    """
    masks = np.zeros((len(annotations), *size), dtype=bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[:] = _instance_mask(annotation["segmentation"], transforms, size)
    masks = torch.from_numpy(masks)
    labels = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    crowd = torch.tensor([bool(a.get("iscrowd", 0)) for a in annotations], dtype=torch.bool)
    return _visible(labels[~crowd], masks[~crowd], valid=~_union(masks[crowd]))


def _instance_mask(
    segmentation: list | dict, transforms: Transform, size: tuple[int, int]
) -> np.ndarray:
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        return transforms.apply_segmentation(mask_util.decode(segmentation)) > 0
    # Parts outside the image are cut off by the rasterization, so the points can be moved freely;
    # Detectron2's `apply_polygons` would need shapely for the same result.
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
    return polygons_to_bitmask([transforms.apply_coords(p).reshape(-1) for p in points], *size)


def _present(label_map: np.ndarray) -> np.ndarray:
    """The labels that occur, in ascending order."""
    if label_map.dtype == np.uint8:
        return cv2.calcHist([label_map], [0], None, [256], [0, 256]).ravel().nonzero()[0]
    return np.unique(label_map)


def _masks(label_map: np.ndarray, labels: ArrayLike) -> Tensor:
    """Where each label is: bool (N, H, W). NumPy compares bytes 20 times as fast as torch does."""
    labels = np.asarray(labels, dtype=label_map.dtype)
    return torch.from_numpy(label_map == labels[:, None, None])


def _union(masks: Tensor) -> Tensor:
    return torch.from_numpy(masks.numpy().any(axis=0))


def _visible(labels: Tensor, masks: Tensor, valid: Tensor) -> Target:
    visible = torch.from_numpy(masks.numpy().any(axis=(1, 2)))  # stops at a mask's first pixel
    if not visible.all():
        labels, masks = labels[visible], masks[visible]
    return Target(labels, masks, valid)
