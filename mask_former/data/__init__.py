"""Data sets, and loading them: records are read, checked, augmented and batched."""

from mask_former.data import datasets
from mask_former.data.agreement import check_classes
from mask_former.data.augmentation import build_augmentation
from mask_former.data.checks import check_data
from mask_former.data.datasets import register_instances, register_panoptic, register_semantic
from mask_former.data.loader import build_test_loader, build_train_loader
from mask_former.data.mapper import MaskFormerDatasetMapper

__all__ = [
    "MaskFormerDatasetMapper",
    "build_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_classes",
    "check_data",
    "datasets",
    "register_instances",
    "register_panoptic",
    "register_semantic",
]
