"""Data sets. Importing this registers the built-in ones, without reading them."""

from mask_former.data.datasets.builtin import BUILTIN
from mask_former.data.datasets.catalog import check_dataset, datasets_root, register_lazily
from mask_former.data.datasets.custom import custom_dataset, register_custom
from mask_former.data.datasets.instances import register_instances
from mask_former.data.datasets.panoptic import load_panoptic, register_panoptic
from mask_former.data.datasets.semantic import register_semantic
from mask_former.data.shapes.make import make_shapes

__all__ = [
    "BUILTIN",
    "check_dataset",
    "custom_dataset",
    "datasets_root",
    "load_panoptic",
    "make_shapes",
    "register_custom",
    "register_instances",
    "register_lazily",
    "register_panoptic",
    "register_semantic",
]
