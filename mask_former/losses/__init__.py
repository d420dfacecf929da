"""Mask losses, and where they look: all pixels or points."""

from mask_former.losses.dense import AllPixels
from mask_former.losses.mask import (
    MASK_LOSSES,
    BinaryCrossEntropy,
    DiceLoss,
    FocalLoss,
    MaskLoss,
    WeightedLoss,
)
from mask_former.losses.points import PointSampling

__all__ = [
    "MASK_LOSSES",
    "AllPixels",
    "BinaryCrossEntropy",
    "DiceLoss",
    "FocalLoss",
    "MaskLoss",
    "PointSampling",
    "WeightedLoss",
]
