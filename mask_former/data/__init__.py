"""Data sets, and the way from their records to the model's input."""

from . import datasets
from .augmentation import build_augmentation
from .checks import check_classes, check_data
from .loader import build_test_loader, build_train_loader
from .mapper import MaskFormerDatasetMapper

__all__ = [
    "MaskFormerDatasetMapper",
    "build_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_classes",
    "check_data",
    "datasets",
]
