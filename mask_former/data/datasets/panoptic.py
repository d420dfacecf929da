"""Data sets in COCO's panoptic format."""

import os
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import Metadata, MetadataCatalog

from mask_former.data.classes import contiguous_ids, metadata_of
from mask_former.data.coco_entries import checked_categories
from mask_former.data.coco_json import check_same_classes, panoptic_categories, read_panoptic
from mask_former.data.datasets.catalog import (
    IGNORE_LABEL,
    Records,
    check_dataset,
    register_lazily,
)
from mask_former.data.datasets.given_categories import with_given
from mask_former.data.json_files import Json
from mask_former.errors import UserError


def register_panoptic(
    name: str,
    *,
    image_root: str | Path,
    panoptic_root: str | Path,
    panoptic_json: str | Path,
    json_file: str | Path | None = None,
    sem_seg_root: str | Path | None = None,
    categories: Sequence[dict[str, Any]] | None = None,
    classes: Sequence[str] = (),
    colors: Sequence[Sequence[int]] = (),
    things: Sequence[str] = (),
    prepare_command: str | None = None,
    **known: Any,
) -> None:
    """Register a data set in COCO's panoptic format with Detectron2, without touching the disk.

    The contiguous id of a class is its position in the categories; see `classes.metadata_of`.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic PNG images.
        panoptic_json: the panoptic annotation.
        json_file: the instance annotation of the same images; needed to evaluate instances only.
        sem_seg_root: folder of semantic PNG images of contiguous ids and 255 for void, named as
            the panoptic ones. None: no mIoU is evaluated.
        categories: in COCO's form, {"id", "name", "isthing"} and optionally "color". None: read
            from the panoptic annotation when the metadata are first accessed, which raises
            FileNotFoundError or UserError if it is missing or bad.
        classes: the names that the categories must have, in their order. Empty: any.
        colors: RGB of each category, in 0..255. Empty: those of the categories.
        things: the names of the things, where the annotation does not say `isthing`.
        prepare_command: the command that prepares the files, for errors about missing ones.
        known: further metadata.

    Raises:
        UserError: a given category lacks a key, or two of them have one id.
    """
    read_metadata = partial(_read_categories, name, panoptic_json, classes, colors, things)
    if categories is not None:
        known, read_metadata = {**panoptic_metadata(name, categories), **known}, dict
    register_lazily(
        name,
        partial(load_panoptic, name),
        read_metadata,
        evaluator_type="coco_panoptic_seg",
        ignore_label=IGNORE_LABEL,
        image_root=image_root,
        panoptic_root=panoptic_root,
        panoptic_json=panoptic_json,
        json_file=json_file,
        sem_seg_root=sem_seg_root,
        prepare_command=prepare_command,
        **known,
    )


def _read_categories(
    name: str,
    panoptic_json: str | Path,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    things: Sequence[str],
) -> dict[str, Any]:
    found = panoptic_categories(str(panoptic_json))
    categories = with_given(found, panoptic_json, classes, colors, things)
    for category in categories:
        if "isthing" not in category:
            raise UserError(
                f"{panoptic_json}: category {category['id']!r}, {category['name']!r}, has no "
                "'isthing': add it, 1 for things and 0 for stuff, or name the things (THINGS)."
            )
    return panoptic_metadata(name, categories)


def load_panoptic(name: str) -> Records:
    """The records of a data set of `register_panoptic`, in Detectron2's format.

    Raises:
        FileNotFoundError: a file or folder that the metadata name does not exist.
        UserError: the annotation contradicts itself, the metadata, or its format.
    """
    check_dataset(name)
    metadata = MetadataCatalog.get(name)
    file = read_panoptic(metadata.panoptic_json)
    ids = contiguous_ids(metadata)
    check_same_classes(file, ids, metadata.stuff_classes)
    return [_record(metadata, ids, a, file.images[a["image_id"]]) for a in file.annotations]


def _record(
    metadata: Metadata, contiguous: dict[Hashable, int], annotation: Json, image: Json
) -> dict[str, Any]:
    things = metadata.thing_dataset_id_to_contiguous_id
    label_file = annotation["file_name"]
    record = {
        "file_name": os.path.join(metadata.image_root, image["file_name"]),
        "image_id": annotation["image_id"],
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": os.path.join(metadata.panoptic_root, label_file),
        "segments_info": [
            {
                **segment,
                "category_id": contiguous[segment["category_id"]],
                "isthing": segment["category_id"] in things,
            }
            for segment in annotation["segments_info"]
        ],
    }
    if metadata.get("sem_seg_root") is not None:
        record["sem_seg_file_name"] = os.path.join(metadata.sem_seg_root, label_file)
    return record


def panoptic_metadata(name: str, categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Class names, colours and the mappings from dataset ids to contiguous ids."""
    checked_categories({"categories": list(categories)}, f"data set {name!r}", ("isthing",))
    return metadata_of(categories)
