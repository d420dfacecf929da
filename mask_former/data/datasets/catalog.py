"""Registering data sets without touching the disk, and checking that their files exist."""

import os
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from mask_former.data.datasets.lazy_metadata import LazyMetadata
from mask_former.data.json_files import no_garbage_collection
from mask_former.errors import MissingFileError, UserError

ROOT_VARIABLE = "DETECTRON2_DATASETS"
IGNORE_LABEL = 255

# Metadata that name the files and folders of a data set.
_LOCATIONS = (
    "json_file",
    "panoptic_json",
    "image_root",
    "panoptic_root",
    "sem_seg_root",
    "image_dir",
    "gt_dir",
    "image_list",
    "class_file",
)

Records = list[dict[str, Any]]


def datasets_root() -> Path:
    """The folder of all data sets: $DETECTRON2_DATASETS, by default `datasets`."""
    return Path(os.getenv(ROOT_VARIABLE, "datasets")).expanduser()


def register_lazily(
    name: str,
    load: Callable[[], Records],
    read_metadata: Callable[[], dict[str, Any]] = dict,
    **known: Any,
) -> None:
    """Register a data set whose metadata are partly read from its own files, on first access.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        load: returns the records; called after `check_dataset`.
        read_metadata: returns metadata that are not in `known`: class names, colours,
            `thing_dataset_id_to_contiguous_id`. Called once, on the first access to a missing
            attribute of `MetadataCatalog.get(name)`. A FileNotFoundError of `open` is explained.
        known: all other metadata: `evaluator_type`, `ignore_label`, `image_root` and other
            locations, `prepare_command`, the command that prepares the files, and `keys`, the key
            of the config that each location comes from. Those that are None are left out.

    Raises:
        UserError: there is a data set of that name.
    """
    if name in DatasetCatalog:
        raise UserError(f"there is another data set of the name {name!r}; choose a new name.")
    known = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in known.items()
        if value is not None
    }
    read = partial(_explaining, name, read_metadata, known)
    DatasetCatalog.register(name, partial(_load_checked, name, load))
    MetadataCatalog[name] = LazyMetadata(name, read, **known)


def _load_checked(name: str, load: Callable[[], Records]) -> Records:
    check_dataset(name)
    return load()


def _explaining(
    name: str, read: Callable[[], dict[str, Any]], known: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        return read()
    except FileNotFoundError as error:
        if isinstance(error, UserError):
            raise
        raise _missing(name, error.filename, known) from error


def check_dataset(name: str) -> None:
    """Check that the files and folders of a registered data set exist, Detectron2's own included.

    Raises:
        UserError: no data set of that name is registered.
        FileNotFoundError: a location in its metadata does not exist.
    """
    if name not in DatasetCatalog:
        raise UserError(
            f"no data set {name!r} is registered; available: {', '.join(sorted(DatasetCatalog))}"
        )
    metadata = MetadataCatalog.get(name)
    for key in _LOCATIONS:
        location = metadata.get(key)
        # Remote files are not looked up; reading them will tell.
        if location is None or "://" in str(location) or PathManager.exists(str(location)):
            continue
        raise _missing(name, str(location), vars(metadata))


def load_registered(name: str) -> Records:
    """The records of a registered data set, as a new list.

    Raises:
        UserError: whatever goes wrong in a function of others that it is registered with.
    """
    load = DatasetCatalog[name]
    try:
        with no_garbage_collection():
            return list(load())
    except UserError:
        raise
    except Exception as error:
        if getattr(load, "func", load).__module__.startswith("mask_former."):
            raise  # a bug of ours
        kind = MissingFileError if isinstance(error, FileNotFoundError) else UserError
        file, line, *_ = traceback.extract_tb(error.__traceback__)[-1]
        raise kind(
            f"Data set {name!r}: the function that it is registered with ends with "
            f"{type(error).__name__}: {error} ({file}, line {line}). Are its files as that "
            "function expects them?"
        ) from error


def _missing(name: str, location: str, known: Mapping[str, Any]) -> MissingFileError:
    missing = f"data set {name!r} needs {os.path.abspath(location)}, which does not exist."
    if key := known.get("keys", {}).get(location):
        return MissingFileError(f"{missing} Correct {key}, or the ROOT that it is relative to.")
    command = known.get("prepare_command")
    if not (command or Path(location).is_relative_to(datasets_root())):
        return MissingFileError(f"{missing} Correct the path that it is registered with.")
    root = os.getenv(ROOT_VARIABLE)
    setting = f"it is {root!r}" if root else "it is not set, which means 'datasets'"
    prepare = f"Prepare it with `{command}`. " if command else ""
    return MissingFileError(
        f"{missing} {prepare}If it is elsewhere, set the environment variable "
        f"{ROOT_VARIABLE} to the folder that holds all data sets ({setting}), or correct the path "
        "that the data set is registered with."
    )
