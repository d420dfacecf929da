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
from mask_former.inference.sliding_window import SlidingWindow, sliding_window_inference

__all__ = [
    "Inference",
    "Sizes",
    "SlidingWindow",
    "confident_queries",
    "instance_inference",
    "panoptic_inference",
    "scale_masks",
    "semantic_inference",
    "semantic_labels",
    "sliding_window_inference",
    "top_instances",
]
