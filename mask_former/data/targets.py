"""The ground truth that a model is trained on: a class label and a mask for every segment.

To mask classification, semantic, panoptic and instance annotations are the same, a set of segments
(paper, section 3.2). This file makes the set from each kind of annotation.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as coco_mask
import torch
from detectron2.data.transforms import Transform
from detectron2.structures import BitMasks, polygons_to_bitmask
from torch import Tensor

from mask_former.data.geometry import run_lengths_of
from mask_former.data.label_map import LabelMapMasks, count_pixels


class Segments(NamedTuple):
    """The ground-truth segments of one image.

    Attributes:
        labels: class of each segment, int64 (N,).
        masks: the segments, of (N, H, W).
        valid: the pixels that are annotated, bool (H, W).
    """

    labels: Tensor
    masks: BitMasks
    valid: Tensor


def semantic_target(label_map: np.ndarray, ignore_value: int) -> Segments:
    """One segment for each class that is present, in ascending order of the classes.

    Args:
        label_map: class of each pixel, integers (H, W).
        ignore_value: label of the pixels that belong to no class.
    """
    labels, _ = count_pixels(label_map)
    labels = torch.from_numpy(labels[labels != ignore_value])
    masks = LabelMapMasks(torch.from_numpy(label_map), labels)
    return Segments(labels.long(), masks, valid=torch.from_numpy(label_map != ignore_value))


def panoptic_target(id_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]]) -> Segments:
    """One segment for each thing and each stuff class that is visible, in the order given.

    Crowds are left out: nobody can say how many segments they are. They are not valid, nor are
    pixels of no segment.

    Args:
        id_map: segment id of each pixel, integers (H, W), 0 = none.
        segments_info: the segments with their `id`, `category_id` and, optionally, `iscrowd`.
            Those that do not occur in `id_map` (any more, after a crop) are left out.
    """
    visible = set(count_pixels(id_map)[0].tolist())
    segments = [segment for segment in segments_info if segment["id"] in visible]
    valid = id_map != 0
    for segment in segments:
        if segment.get("iscrowd", 0):
            valid &= id_map != segment["id"]
    segments = [segment for segment in segments if not segment.get("iscrowd", 0)]
    ids = np.array([segment["id"] for segment in segments], dtype=id_map.dtype)
    labels = torch.tensor([segment["category_id"] for segment in segments], dtype=torch.int64)
    masks = LabelMapMasks(torch.from_numpy(id_map), torch.from_numpy(ids))
    return Segments(labels, masks, valid=torch.from_numpy(valid))


def instance_target(
    annotations: Sequence[Mapping[str, Any]], transforms: Transform, size: tuple[int, int]
) -> Segments:
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
    labels = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
    kept = ~crowd & masks.any(axis=(1, 2))
    valid = ~masks[crowd].any(axis=0)
    return Segments(labels[kept], BitMasks(masks[kept]), torch.from_numpy(valid))


def _instance_mask(
    segmentation: list | dict, transforms: Transform, size: tuple[int, int]
) -> np.ndarray:
    if isinstance(segmentation, dict):
        run_lengths = run_lengths_of(segmentation, segmentation["size"])
        return transforms.apply_segmentation(coco_mask.decode(run_lengths)) > 0
    # Parts outside the image are cut off by the rasterization, so the points can be moved freely;
    # Detectron2's `apply_polygons` would need shapely for the same result.
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
    return polygons_to_bitmask([transforms.apply_coords(p).reshape(-1) for p in points], *size)
