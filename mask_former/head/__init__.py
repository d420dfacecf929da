"""Segmentation heads: a pixel decoder and what follows it."""

from mask_former.head.mask_former import MaskFormerHead
from mask_former.head.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead

__all__ = ["MaskFormerHead", "PerPixelBaselineHead", "PerPixelBaselinePlusHead"]
