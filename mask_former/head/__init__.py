"""Segmentation heads: a pixel decoder and what follows it."""

from mask_former.head.eomt import EoMT, EoMTHead
from mask_former.head.mask_former import MaskFormerHead
from mask_former.head.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from mask_former.head.segmenter import SegmenterHead

__all__ = [
    "EoMT",
    "EoMTHead",
    "MaskFormerHead",
    "PerPixelBaselineHead",
    "PerPixelBaselinePlusHead",
    "SegmenterHead",
]
