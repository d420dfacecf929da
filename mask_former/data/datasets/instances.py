"""Data sets in COCO's instance format."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from mask_former.data.classes import given_colors, supercategories
from mask_former.data.coco_json import (
    CheckedAnnotations,
    check_same_classes,
    instance_categories,
    read_instances,
)
from mask_former.data.datasets.catalog import Records, register_lazily
from mask_former.data.datasets.given_categories import with_given

# What a record keeps of its annotations.
_KEPT = ("id", "iscrowd", "bbox", "segmentation", "keypoints")


def register_instances(
    name: str,
    *,
    image_root: str | Path,
    json_file: str | Path,
    categories: Sequence[dict[str, Any]] | None = None,
    classes: Sequence[str] = (),
    colors: Sequence[Sequence[int]] = (),
    prepare_command: str | None = None,
    evaluator_type: str = "coco",
    **known: Any,
) -> None:
    """Register a data set in COCO's instance format with Detectron2, without touching the disk.

    The contiguous id of a class is its position in the categories, sorted by their ids. Unlike
    after Detectron2's `register_coco_instances`, the classes are known before the records are read.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        image_root: folder of the images.
        json_file: the annotation.
        categories: in COCO's form, {"id", "name"} and optionally "color". None: read from
            `json_file` when the metadata are first accessed.
        classes: the names that the categories must have, in the order of their ids. Empty: any.
        colors: RGB of each category, in 0..255. Empty: those of the categories.
        prepare_command: the command that prepares the files, for errors about missing ones.
        evaluator_type: a key of `mask_former.evaluation.EVALUATORS`.
        known: further metadata.
    """
    read_metadata = partial(_read_metadata, json_file, classes, colors)
    if categories is not None:
        known, read_metadata = {**instance_metadata(categories), **known}, dict
    register_lazily(
        name,
        partial(load_instances, str(json_file), str(image_root), name),
        read_metadata,
        evaluator_type=evaluator_type,
        image_root=image_root,
        json_file=json_file,
        prepare_command=prepare_command,
        **known,
    )


def load_instances(json_file: str, image_root: str, name: str) -> Records:
    """The records of a data set in COCO's instance format, in Detectron2's format, by image id.

    Their masks are those of the file, which is read once a process; they must not be changed.

    Raises:
        UserError: the annotation contradicts itself, the metadata, or its format.
    """
    file = read_instances(json_file)
    metadata = MetadataCatalog.get(name)
    contiguous = metadata.thing_dataset_id_to_contiguous_id
    check_same_classes(file, contiguous, metadata.thing_classes)
    by_image = file.by_image()
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "annotations": CheckedAnnotations(
                {
                    **{key: annotation[key] for key in _KEPT if key in annotation},
                    "category_id": contiguous[annotation["category_id"]],
                    "bbox_mode": BoxMode.XYWH_ABS,
                }
                for annotation in by_image[image_id]
            ),
        }
        for image_id, image in sorted(file.images.items())
    ]


def _read_metadata(
    json_file: str | Path, classes: Sequence[str], colors: Sequence[Sequence[int]]
) -> dict[str, Any]:
    categories = instance_categories(str(json_file))
    return instance_metadata(with_given(categories, json_file, classes, colors))


def instance_metadata(categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`thing_classes`, `thing_dataset_id_to_contiguous_id` and, if given, `thing_colors` and
    `supercategories`."""
    categories = sorted(categories, key=lambda category: category["id"])
    metadata = {
        "thing_classes": [category["name"] for category in categories],
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(categories)},
    }
    if colors := given_colors(categories):
        metadata["thing_colors"] = colors
    return metadata | supercategories(categories)
