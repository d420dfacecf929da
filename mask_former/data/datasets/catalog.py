"""Data sets are registered without touching the disk, and checked before they are read."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from mask_former.data.datasets.lazy_metadata import LazyMetadata
from mask_former.errors import UserError

ROOT_VARIABLE = "DETECTRON2_DATASETS"
IGNORE_LABEL = 255

# Metadata that name files and folders without which a data set is of no use.
_LOCATIONS = (
    "json_file",
    "panoptic_json",
    "image_root",
    "panoptic_root",
    "sem_seg_root",
    "image_dir",
    "gt_dir",
)

Records = list[dict[str, Any]]


def datasets_root() -> Path:
    """The folder of all data sets: $DETECTRON2_DATASETS, by default `datasets`."""
    return Path(os.getenv(ROOT_VARIABLE, "datasets")).expanduser()


def register_lazily(
    name: str,
    load: Callable[[], Records],
    read_metadata: Callable[[], dict[str, Any]],
    **known: Any,
) -> None:
    """Register a data set whose own files tell its classes, without reading them.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        load: returns the records; called when `check_dataset` finds nothing missing.
        read_metadata: returns the metadata that files tell: class names, colours,
            `thing_dataset_id_to_contiguous_id`. Called once, on the first access to a missing
            attribute of `MetadataCatalog.get(name)`. It may fail with `open`'s FileNotFoundError,
            which is then explained.
        known: all other metadata: `evaluator_type`, `ignore_label`, `image_root` and other
            locations, and `made_by`, the command that makes the files.
    """
    known = {key: str(value) if isinstance(value, Path) else value for key, value in known.items()}
    read = partial(_explaining, name, read_metadata, known.get("made_by"))
    DatasetCatalog.register(name, partial(_load_checked, name, load))
    MetadataCatalog[name] = LazyMetadata(name, read, **known)


def _load_checked(name: str, load: Callable[[], Records]) -> Records:
    check_dataset(name)
    return load()


def _explaining(
    name: str, read: Callable[[], dict[str, Any]], made_by: str | None
) -> dict[str, Any]:
    try:
        return read()
    except FileNotFoundError as error:
        if error.filename is None:
            raise  # has been explained
        raise _missing(name, error.filename, made_by) from error


def check_dataset(name: str) -> None:
    """Check that the files and folders of a registered data set exist, whoever registered it.

    Raises:
        ValueError: no data set of that name is registered.
        FileNotFoundError: something that its metadata name does not exist.
    """
    if name not in DatasetCatalog:
        raise UserError(
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
    if "://" not in location and not PathManager.exists(location):
        raise _missing(name, location, made_by)


def _missing(name: str, location: str | Path, made_by: str | None) -> FileNotFoundError:
    root = os.getenv(ROOT_VARIABLE)
    setting = f"it is {root!r}" if root else "it is not set, which means 'datasets'"
    make = f"Make it with `{made_by}`. " if made_by else ""
    return FileNotFoundError(
        f"data set {name!r} needs {os.path.abspath(location)}, which does not exist. {make}"
        "Where it is elsewhere, set the environment variable "
        f"{ROOT_VARIABLE} to the folder that holds all data sets ({setting}), or correct the path "
        "that the data set is registered with."
    )


def read_json(path: str | Path) -> dict[str, Any]:
    """The content of a JSON file; ValueError with its name if it is none."""
    with PathManager.open(str(path), encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON: {error}") from error
