"""Registers the built-in data sets below `datasets_root()`."""

from pathlib import Path

from detectron2.data import DatasetCatalog

from mask_former.data.datasets.ade20k import register_ade20k
from mask_former.data.datasets.ade20k_full import register_ade20k_full
from mask_former.data.datasets.catalog import datasets_root
from mask_former.data.datasets.cityscapes import (
    explain_builtin_cityscapes,
    register_cityscapes,
)
from mask_former.data.datasets.coco import register_coco
from mask_former.data.datasets.coco_stuff_10k import register_coco_stuff_10k
from mask_former.data.datasets.instances import register_instances
from mask_former.data.datasets.mapillary_vistas import register_mapillary_vistas
from mask_former.data.datasets.panoptic import register_panoptic
from mask_former.data.datasets.pascal_context import register_pascal_context
from mask_former.data.datasets.pascal_voc import register_pascal_voc
from mask_former.data.datasets.semantic import register_semantic
from mask_former.data.shapes.make import CATEGORIES, SPLITS, split_paths

_PREPARE = "python -m tools.prepare_datasets shapes"


def register_shapes(root: Path) -> None:
    """Register shapes_{train,val}_{panoptic,semantic,instance} below `root`."""
    things = [category for category in CATEGORIES if category["isthing"]]
    for split in SPLITS:
        paths = split_paths(root / "shapes", split)
        register_panoptic(
            f"shapes_{split}_panoptic", **paths, categories=CATEGORIES, prepare_command=_PREPARE
        )
        register_semantic(
            f"shapes_{split}_semantic",
            image_root=paths["image_root"],
            sem_seg_root=paths["sem_seg_root"],
            classes=[category["name"] for category in CATEGORIES],
            colors=[category["color"] for category in CATEGORIES],
            encoding="values",
            prepare_command=_PREPARE,
        )
        register_instances(
            f"shapes_{split}_instance",
            image_root=paths["image_root"],
            json_file=paths["json_file"],
            categories=things,
            prepare_command=_PREPARE,
        )


register_shapes(datasets_root())
register_ade20k(datasets_root())
register_ade20k_full(datasets_root())
register_coco(datasets_root())
register_coco_stuff_10k(datasets_root())
register_cityscapes(datasets_root())
explain_builtin_cityscapes()
register_mapillary_vistas(datasets_root())
register_pascal_context(datasets_root())
register_pascal_voc(datasets_root())

BUILTIN = frozenset(DatasetCatalog)
"""The names of the built-in data sets, Detectron2's included."""
