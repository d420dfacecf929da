"""Segmentation heads: a pixel decoder and what follows it."""

from mask_former.head.mask_former import MaskFormerHead

__all__ = ["MaskFormerHead"]
