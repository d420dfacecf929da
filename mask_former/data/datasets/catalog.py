"""Data sets in COCO's panoptic format: registered in a few lines, checked before they are read."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

ROOT_VARIABLE = "DETECTRON2_DATASETS"
IGNORE_LABEL = 255

# Metadata that name files and folders without which a data set is of no use.
_LOCATIONS = (
    "json_file",
    "panoptic_json",
    "image_root",
    "panoptic_root",
    "sem_seg_root",
)


def datasets_root() -> Path:
    """The folder of all data sets: $DETECTRON2_DATASETS, by default `datasets`."""
    return Path(os.getenv(ROOT_VARIABLE, "datasets")).expanduser()


def register_panoptic(
    name: str,
    *,
    image_root: str | Path,
    panoptic_root: str | Path,
    panoptic_json: str | Path,
    json_file: str | Path | None = None,
    sem_seg_root: str | Path | None = None,
    categories: Sequence[dict[str, Any]] | None = None,
    made_by: str | None = None,
) -> None:
    """Register a data set in COCO's panoptic format with Detectron2.

    The contiguous id of a class is its position in the categories. Where all things come before
    all stuff, `thing_classes` of the metadata are the things; else they are all classes, like
    `stuff_classes`, so that a contiguous id is an index into either.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic PNG images.
        panoptic_json: the panoptic annotation.
        json_file: the instance annotation of the same images; needed to evaluate instances only.
        sem_seg_root: folder of semantic PNG images of contiguous ids and 255 for void, named as
            the panoptic ones; without it, semantic ground truth comes from the panoptic one.
        categories: in COCO's form, {"id", "name", "isthing"} and maybe "color". None: read from
            the panoptic annotation, now.
        made_by: the command that makes the files, to be told to whoever lacks them.

    Raises:
        FileNotFoundError: there is no `panoptic_json`, and no categories are given.
        ValueError: a category lacks a key, or two of them have one id.
    """
    if categories is None:
        _require(name, panoptic_json, made_by)
        categories = _read_json(panoptic_json).get("categories", ())
    metadata = _category_metadata(name, categories)
    locations = {
        "image_root": image_root,
        "panoptic_root": panoptic_root,
        "panoptic_json": panoptic_json,
        "json_file": json_file,
        "sem_seg_root": sem_seg_root,
    }
    metadata.update({key: str(path) for key, path in locations.items() if path is not None})
    if made_by is not None:
        metadata["made_by"] = made_by
    DatasetCatalog.register(name, partial(load_panoptic, name))
    MetadataCatalog.get(name).set(
        evaluator_type="coco_panoptic_seg", ignore_label=IGNORE_LABEL, **metadata
    )


def load_panoptic(name: str) -> list[dict[str, Any]]:
    """The records of a data set of `register_panoptic`, in Detectron2's format.

    Raises:
        FileNotFoundError: a file or folder that the metadata name does not exist.
        ValueError: the annotation is no JSON, or contradicts itself or the metadata.
    """
    check_dataset(name)
    path = MetadataCatalog.get(name).panoptic_json
    content = _read_json(path)
    try:
        images = {image["id"]: image for image in content["images"]}
        records = [_record(name, annotation, images) for annotation in content["annotations"]]
    except KeyError as error:
        raise ValueError(
            f"{path} is not in COCO's panoptic format: something lacks the key {error}"
        ) from error
    if not records:
        raise ValueError(f"{path} holds no annotations")
    return records


def _record(name: str, annotation: dict[str, Any], images: dict[int, dict]) -> dict[str, Any]:
    metadata = MetadataCatalog.get(name)
    things = metadata.thing_dataset_id_to_contiguous_id
    contiguous = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
    image_id, label_file = annotation["image_id"], annotation["file_name"]
    segments = annotation["segments_info"]
    unknown = {segment["category_id"] for segment in segments} - contiguous.keys()
    if image_id not in images or unknown:
        what = f"category ids {sorted(unknown)}" if unknown else "image id"
        raise ValueError(
            f"{metadata.panoptic_json}, annotation of image {image_id}: unknown {what}"
        )
    image = images[image_id]
    record = {
        "file_name": os.path.join(metadata.image_root, image["file_name"]),
        "image_id": image_id,
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": os.path.join(metadata.panoptic_root, label_file),
        "segments_info": [
            {
                **segment,
                "category_id": contiguous[segment["category_id"]],
                "isthing": segment["category_id"] in things,
            }
            for segment in segments
        ],
    }
    if metadata.get("sem_seg_root") is not None:
        record["sem_seg_file_name"] = os.path.join(metadata.sem_seg_root, label_file)
    return record


def check_dataset(name: str) -> None:
    """Check that the files and folders of a registered data set exist, whoever registered it.

    Raises:
        ValueError: no data set of that name is registered.
        FileNotFoundError: something that its metadata name does not exist.
    """
    if name not in DatasetCatalog:
        raise ValueError(
            f"no data set {name!r} is registered; there are: {', '.join(sorted(DatasetCatalog))}"
        )
    metadata = MetadataCatalog.get(name)
    for key in _LOCATIONS:
        location = metadata.get(key)
        if location is not None:
            _require(name, location, metadata.get("made_by"))


def _require(name: str, location: str | Path, made_by: str | None) -> None:
    location = str(location)
    # Whether something remote exists shows when it is read.
    if "://" in location or PathManager.exists(location):
        return
    root = os.getenv(ROOT_VARIABLE)
    setting = f"it is {root!r}" if root else "it is not set, which means 'datasets'"
    make = f"Make it with `{made_by}`. " if made_by else ""
    raise FileNotFoundError(
        f"data set {name!r} needs {os.path.abspath(location)}, which does not exist. {make}"
        "Where it is elsewhere, set the environment variable "
        f"{ROOT_VARIABLE} to the folder that holds all data sets ({setting}), or correct the path "
        "that the data set is registered with."
    )


def _read_json(path: str | Path) -> dict[str, Any]:
    with PathManager.open(str(path), encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error


def _category_metadata(name: str, categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Class names, colours and the mappings from dataset ids to contiguous ids."""
    for category in categories:
        if lacking := {"id", "name", "isthing"} - category.keys():
            raise ValueError(
                f"data set {name!r}: category {category} lacks {sorted(lacking)}; what is meant is "
                "the categories of a panoptic annotation"
            )
    ids = [category["id"] for category in categories]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"data set {name!r} needs categories of distinct ids, got the ids {ids}")
    is_thing = [bool(category["isthing"]) for category in categories]
    things_first = sorted(is_thing, reverse=True) == is_thing
    classes = [category["name"] for category in categories]
    num_things = sum(is_thing) if things_first else len(classes)
    metadata = {
        "thing_classes": classes[:num_things],
        "stuff_classes": classes,
        "thing_dataset_id_to_contiguous_id": {k: i for i, k in enumerate(ids) if is_thing[i]},
        "stuff_dataset_id_to_contiguous_id": {k: i for i, k in enumerate(ids) if not is_thing[i]},
    }
    if all("color" in category for category in categories):
        colors = [list(category["color"]) for category in categories]
        metadata.update(thing_colors=colors[:num_things], stuff_colors=colors)
    return metadata
