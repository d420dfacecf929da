"""Registers the data sets that come with MaskFormer, under Detectron2's root of data sets."""

from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg

from mask_former.data.datasets.ade20k import register_ade20k
from mask_former.data.datasets.ade20k_full import register_ade20k_full
from mask_former.data.datasets.catalog import IGNORE_LABEL, check_dataset, datasets_root
from mask_former.data.datasets.cityscapes import (
    explain_builtin_cityscapes,
    register_cityscapes,
)
from mask_former.data.datasets.coco import register_coco
from mask_former.data.datasets.coco_stuff_10k import register_coco_stuff_10k
from mask_former.data.datasets.mapillary_vistas import register_mapillary_vistas
from mask_former.data.datasets.panoptic import register_panoptic
from mask_former.data.shapes.make import CATEGORIES, SPLITS, split_paths

_MADE_BY = "python -m tools.prepare_datasets shapes"


def register_shapes() -> None:
    """Register shapes_{train,val}_{panoptic,semantic,instance}. Reads nothing but packaged data."""
    for split in SPLITS:
        paths = split_paths(datasets_root() / "shapes", split)
        name = f"shapes_{split}"
        register_panoptic(f"{name}_panoptic", **paths, categories=CATEGORIES, made_by=_MADE_BY)
        panoptic = MetadataCatalog.get(f"{name}_panoptic")

        DatasetCatalog.register(f"{name}_semantic", partial(_load_semantic, f"{name}_semantic"))
        MetadataCatalog.get(f"{name}_semantic").set(
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            made_by=_MADE_BY,
            **{
                key: panoptic.get(key)
                for key in ("stuff_classes", "stuff_colors", "image_root", "sem_seg_root")
            },
        )

        DatasetCatalog.register(f"{name}_instance", partial(_load_instance, f"{name}_instance"))
        MetadataCatalog.get(f"{name}_instance").set(
            evaluator_type="coco",
            made_by=_MADE_BY,
            **{
                key: panoptic.get(key)
                for key in (
                    "thing_classes",
                    "thing_colors",
                    "thing_dataset_id_to_contiguous_id",
                    "image_root",
                    "json_file",
                )
            },
        )


def _load_semantic(name: str) -> list[dict[str, Any]]:
    check_dataset(name)
    metadata = MetadataCatalog.get(name)
    return load_sem_seg(metadata.sem_seg_root, metadata.image_root)


def _load_instance(name: str) -> list[dict[str, Any]]:
    check_dataset(name)
    metadata = MetadataCatalog.get(name)
    return load_coco_json(metadata.json_file, metadata.image_root, name)


register_shapes()
register_ade20k(datasets_root())
register_ade20k_full(datasets_root())
register_coco(datasets_root())
register_coco_stuff_10k(datasets_root())
register_cityscapes(datasets_root())
explain_builtin_cityscapes()
register_mapillary_vistas(datasets_root())
