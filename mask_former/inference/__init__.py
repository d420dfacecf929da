"""From predictions to semantic, panoptic and instance segmentation: pure functions."""

from mask_former.inference.record import Inference
from mask_former.inference.resize import Sizes, scale_masks
from mask_former.inference.segment import (
    confident_queries,
    instance_inference,
    panoptic_inference,
    semantic_inference,
    semantic_labels,
    top_instances,
)

__all__ = [
    "Inference",
    "Sizes",
    "confident_queries",
    "instance_inference",
    "panoptic_inference",
    "scale_masks",
    "semantic_inference",
    "semantic_labels",
    "top_instances",
]
