"""Pictures: predictions and ground truth over images and videos, contact sheets, curves.

Images are uint8 (H, W, 3) in OpenCV's order, blue first.
"""

from .curves import plot_curves, read_metrics
from .draw import Segment, draw_instances, draw_panoptic, draw_semantic, paint
from .ground_truth import draw_ground_truth
from .palette import Palette
from .sheet import make_sheet
from .track import ShadeTracker
from .video import VideoReader, VideoWriter

__all__ = [
    "Palette",
    "Segment",
    "ShadeTracker",
    "VideoReader",
    "VideoWriter",
    "draw_ground_truth",
    "draw_instances",
    "draw_panoptic",
    "draw_semantic",
    "make_sheet",
    "paint",
    "plot_curves",
    "read_metrics",
]
