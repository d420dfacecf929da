"""Pictures: predictions and ground truth over images and videos, contact sheets, curves.

Images are uint8 (H, W, 3) in OpenCV's order, blue first.
"""

from mask_former.visualization.counts import draw_counts
from mask_former.visualization.curves import plot_curves, read_metrics
from mask_former.visualization.draw import (
    SegmentStyle,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    paint,
)
from mask_former.visualization.ground_truth import draw_ground_truth, ground_truth_sheet
from mask_former.visualization.palette import Palette
from mask_former.visualization.sheet import make_sheet
from mask_former.visualization.track import ShadeTracker
from mask_former.visualization.video import VideoReader, VideoWriter

__all__ = [
    "Palette",
    "SegmentStyle",
    "ShadeTracker",
    "VideoReader",
    "VideoWriter",
    "draw_counts",
    "draw_ground_truth",
    "draw_instances",
    "draw_panoptic",
    "draw_semantic",
    "ground_truth_sheet",
    "make_sheet",
    "paint",
    "plot_curves",
    "read_metrics",
]
