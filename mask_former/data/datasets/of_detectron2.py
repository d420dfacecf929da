"""Data sets that Detectron2's own functions have registered, read and checked by our readers."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from mask_former.data.coco_json import instance_categories, panoptic_categories
from mask_former.data.datasets import instances, panoptic
from mask_former.data.datasets.catalog import Records
from mask_former.data.datasets.semantic import load_semantic
from mask_former.errors import UserError

# Metadata that Detectron2's `register_coco_panoptic` needs from its caller.
_PANOPTIC_CLASSES = (
    "stuff_classes",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
)


def read_by_ourselves(name: str) -> None:
    """Have a data set of `register_coco_instances`, `register_coco_panoptic` or
    `register_coco_panoptic_separated` read by our readers, which check annotations, parse a file
    once, and pair files by their names. Classes that its metadata lack become known. Other data
    sets are left alone.

    Raises:
        FileNotFoundError: the annotation is missing.
        UserError: its categories are wrong, or the metadata give only a part of them.
    """
    registered_by = getattr(DatasetCatalog[name], "__qualname__", "").partition(".<locals>")[0]
    if registered_by in _READERS:
        DatasetCatalog[name] = _READERS[registered_by](name, MetadataCatalog.get(name))


def _instances(name: str, metadata: Metadata) -> Callable[[], Records]:
    if not metadata.get("thing_classes"):
        categories = instance_categories(str(metadata.json_file))
        metadata.set(**instances.instance_metadata(categories))
    json_file, image_root = str(metadata.json_file), str(metadata.image_root)
    return partial(instances.load_instances, json_file, image_root, name)


def _panoptic(name: str, metadata: Metadata) -> Callable[[], Records]:
    missing = [key for key in _PANOPTIC_CLASSES if metadata.get(key) is None]
    if missing and len(missing) < len(_PANOPTIC_CLASSES):
        raise UserError(
            f"Data set {name!r}: its metadata lack {' and '.join(missing)}. Give all of "
            f"{', '.join(_PANOPTIC_CLASSES)}, or none of them to have them read from "
            f"{metadata.panoptic_json}."
        )
    if missing:
        categories = panoptic_categories(str(metadata.panoptic_json))
        found = panoptic.panoptic_metadata(name, categories)
        metadata.set(**{key: found[key] for key in found if metadata.get(key) is None})
    return partial(panoptic.load_panoptic, name)


def _separated(name: str, metadata: Metadata) -> Callable[[], Records]:
    labels = partial(load_semantic, name, "jpg", "png")
    if metadata.get("json_file") is None:  # NAME_stuffonly
        return labels
    return partial(_with_label_maps, _instances(name, metadata), labels)


def _with_label_maps(load: Callable[[], Records], load_labels: Callable[[], Records]) -> Records:
    """Records of instances, with the label maps of the same images."""
    records = load()
    of_image: dict[str, Any] = {os.path.normpath(r["file_name"]): r for r in load_labels()}
    for index, record in enumerate(records):
        labels = of_image.get(os.path.normpath(record["file_name"]))
        if labels is None:
            raise UserError(
                f"{record['file_name']}, which the instance annotation names, has no label map of "
                "the same name (sem_seg_root)."
            )
        records[index] = {**labels, **record}
    return records


_READERS = {
    "register_coco_instances": _instances,
    "register_coco_panoptic": _panoptic,
    "register_coco_panoptic_separated": _separated,
}
