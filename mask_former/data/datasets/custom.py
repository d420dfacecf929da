"""Data sets of your own, of DATASETS.CUSTOM: an entry there is a call of `register_semantic`,
`register_instances` or `register_panoptic`."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.datasets.instances import register_instances
from mask_former.data.datasets.panoptic import register_panoptic
from mask_former.data.datasets.semantic import register_semantic
from mask_former.errors import UserError, check_choice, prefixed

SECTION = "DATASETS.CUSTOM"
# In a path it stands for the name of each split.
_SPLIT = "{split}"


def custom_dataset() -> CfgNode:
    """The keys of a data set in DATASETS.CUSTOM, each with its default."""
    entry = CfgNode()
    # What is annotated: semantic (a label map for each image), instances (COCO's JSON) or panoptic
    # (COCO's JSON and PNG).
    entry.FORMAT = ""
    # Of several parts, each a data set NAME_SPLIT: [train, val]. {split} in a path below stands for
    # each of them.
    entry.SPLITS = ()
    # What the paths below are relative to; empty: the working directory.
    entry.ROOT = ""
    # The folder of the images, with subfolders.
    entry.IMAGES = ""
    # The folder of the label maps, or of the panoptic PNG.
    entry.LABELS = ""
    # The JSON of instances or of panoptic segments.
    entry.JSON = ""
    # panoptic: what else can be evaluated. The JSON of the same images' instances (AP), and the
    # folder of their label maps of contiguous ids and 255 (mIoU).
    entry.INSTANCES_JSON = ""
    entry.SEMANTIC_LABELS = ""

    # The names of the classes. semantic: in the order of their values in the label maps. Otherwise
    # they come from the JSON, and are compared with it.
    entry.CLASSES = ()
    # semantic: a file of the classes instead, with their colours if it has any: a name a line,
    # CVAT's labelmap.txt, or JSON.
    entry.CLASS_FILE = ""
    # RGB of each class, in 0..255, in the order of the classes: [[255, 0, 0], ...]. Otherwise those
    # of the files, if any.
    entry.COLORS = ()
    # panoptic: the names of the classes that are things, where the JSON does not say it (isthing).
    entry.THINGS = ()

    # semantic, all of the following. The name of a label map is that of its image, after the one
    # ends in LABEL_SUFFIX instead of IMAGE_SUFFIX: "_mask.png" for photo_mask.png and photo.jpg.
    # Empty: any suffix of a picture, for labels of a lossless one.
    entry.IMAGE_SUFFIX = ""
    entry.LABEL_SUFFIX = ""
    # A text file of the images that belong to the data set, a name or path in IMAGES a line, with
    # or without suffix. Empty: all.
    entry.IMAGE_LIST = ""
    # What a pixel of a label map holds: values (a number: grey of 8 or 16 bits, or an index into a
    # palette), colors (those of COLORS or CLASS_FILE), binary (0: the first of two classes; 255 or
    # 1: the second); auto: values where the file has one channel, else colors.
    entry.ENCODING = "auto"
    # The value of each class, where they are not 0, 1, 2, ... without those of IGNORE.
    entry.LABEL_VALUES = ()
    # What is ignored, in training and metrics: values, colours, or names of classes, which then are
    # none of the model's. The value 255 is, too, where it is no class's.
    entry.IGNORE = ()
    return entry


PATHS = (
    "IMAGES",
    "LABELS",
    "JSON",
    "INSTANCES_JSON",
    "SEMANTIC_LABELS",
    "CLASS_FILE",
    "IMAGE_LIST",
)
"""The keys whose values are paths."""


class _Format(NamedTuple):
    """A value of FORMAT.

    Attributes:
        register: what registers such a data set.
        required: the keys that it needs.
        arguments: the argument that each key becomes; others have no meaning.
    """

    register: Callable[..., None]
    required: tuple[str, ...]
    arguments: dict[str, str]


_FORMATS = {
    "semantic": _Format(
        register_semantic,
        ("IMAGES", "LABELS"),
        {
            "IMAGES": "image_root",
            "LABELS": "sem_seg_root",
            "CLASSES": "classes",
            "CLASS_FILE": "class_file",
            "COLORS": "colors",
            "IMAGE_SUFFIX": "image_suffix",
            "LABEL_SUFFIX": "label_suffix",
            "IMAGE_LIST": "image_list",
            "ENCODING": "encoding",
            "LABEL_VALUES": "label_values",
            "IGNORE": "ignore",
        },
    ),
    "instances": _Format(
        register_instances,
        ("IMAGES", "JSON"),
        {"IMAGES": "image_root", "JSON": "json_file", "CLASSES": "classes", "COLORS": "colors"},
    ),
    "panoptic": _Format(
        register_panoptic,
        ("IMAGES", "LABELS", "JSON"),
        {
            "IMAGES": "image_root",
            "LABELS": "panoptic_root",
            "JSON": "panoptic_json",
            "INSTANCES_JSON": "json_file",
            "SEMANTIC_LABELS": "sem_seg_root",
            "CLASSES": "classes",
            "COLORS": "colors",
            "THINGS": "things",
        },
    ),
}


def register_custom(cfg: CfgNode) -> None:
    """Register the data sets of DATASETS.CUSTOM, without touching the disk.

    Those that an earlier call has registered are replaced if their keys have changed.

    Raises:
        UserError: a key is unknown, missing, without meaning, or has no possible value; or a data
            set of another origin has the name.
    """
    for name, given in cfg.DATASETS.CUSTOM.items():
        place = f"{SECTION}.{name}"
        entry = custom_dataset()
        for key, value in given.items():
            if key not in entry:
                raise UserError(f"{place}.{key} is unknown; the keys are {', '.join(entry)}.")
            entry[key] = value
        with prefixed(f"{place}."):
            _check_entry(entry)
        for split in entry.SPLITS or [""]:
            _register(f"{name}_{split}" if split else name, place, entry, split)


def _check_entry(entry: CfgNode) -> None:
    """Raise UserError for a key whose value cannot be; the message starts with the key."""
    check_choice("FORMAT", entry.FORMAT, _FORMATS)
    _, required, arguments = _FORMATS[entry.FORMAT]
    for key in required:
        if not entry[key]:
            raise UserError(f"{key} is missing, which FORMAT {entry.FORMAT} needs.")
    defaults = custom_dataset()
    for key, value in entry.items():
        if key not in (*arguments, "FORMAT", "SPLITS", "ROOT") and value != defaults[key]:
            raise UserError(
                f"{key} is {value!r}, which has no meaning with FORMAT {entry.FORMAT}. Leave it "
                "out."
            )
        if key in PATHS and _SPLIT in value and not entry.SPLITS:
            raise UserError(
                f"{key} is {value!r}, but there are no splits to put there. Name them in SPLITS, "
                "such as [train, val]."
            )
    if not all(isinstance(split, str) and split for split in entry.SPLITS):
        raise UserError(
            f"SPLITS is {list(entry.SPLITS)}, but must be names: put quotes around them."
        )
    if entry.SPLITS and not any(_SPLIT in entry[key] for key in PATHS):
        raise UserError(
            f"SPLITS is {list(entry.SPLITS)}, but no path has {_SPLIT} in it, so that all of them "
            "would be the same. Put it where their names stand, or leave SPLITS out."
        )


def _register(name: str, place: str, entry: CfgNode, split: str) -> None:
    register, _, arguments = _FORMATS[entry.FORMAT]
    values = {key: _value(key, entry, split) for key in arguments if entry[key]}
    if name in DatasetCatalog:
        known = vars(MetadataCatalog.get(name)).get("custom")
        if known is None:
            raise UserError(f"{place}: there is another data set {name!r}. Choose a new name.")
        if known == values:
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    keys = {values[key]: f"{place}.{key}" for key in PATHS if key in values}
    known = {arguments[key]: value for key, value in values.items()}
    register(name, **known, keys=keys, custom=values)


def _value(key: str, entry: CfgNode, split: str) -> Any:
    if key not in PATHS:
        return entry[key]
    path = os.path.expanduser(entry[key].replace(_SPLIT, split))
    return os.path.join(os.path.expanduser(entry.ROOT), path)
