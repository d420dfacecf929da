"""Pascal Context: semantic labels of everything in the images of PASCAL VOC 2010.

The annotators named what they saw, in 459 words. Of these 59 are classes; all other pixels are of
one class more, the background. A class id is its rank in the alphabet, after the background, which
is 0; so it is in the weights that others publish.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mask_former.data.datasets.catalog import IGNORE_LABEL
from mask_former.data.datasets.matlab import convert_label_maps
from mask_former.data.datasets.preparing import read_stems, require_path
from mask_former.data.datasets.semantic import register_semantic
from mask_former.errors import UserError

SPLITS = ("train", "val")
BACKGROUND = "background"
_CLASSES, _LAST_LABEL = 59, 459
_IMAGES = Path("VOCdevkit") / "VOC2010"
_FOLDER = "pascal_context"


def register_pascal_context(root: Path) -> None:
    """Register pascal_context_sem_seg_{train,val} in `root`, the folder of data sets."""
    folder = root / _FOLDER
    for split in SPLITS:
        register_semantic(
            f"pascal_context_sem_seg_{split}",
            image_root=root / _IMAGES / "JPEGImages",
            sem_seg_root=folder / "annotations_detectron2" / split,
            image_list=_image_list(root, split),
            read_metadata=partial(_read_metadata, folder),
            ignore_label=IGNORE_LABEL,
            prepare_command="python -m tools.prepare_datasets pascal_context",
        )


def _image_list(root: Path, split: str) -> Path:
    return root / _IMAGES / "ImageSets" / "Main" / f"{split}.txt"


def _read_metadata(folder: Path) -> dict[str, Any]:
    return {"stuff_classes": list(read_classes(folder))}


def read_classes(folder: Path) -> dict[str, int]:
    """The name of each class, in the order of their ids, and its label in the .mat files; 0 for the
    background.

    Args:
        folder: that holds labels.txt and 59_labels.txt, of lines such as "2: aeroplane".

    Raises:
        FileNotFoundError: one of them is missing.
        UserError: they are no such lists, or a class is no label.
    """
    labels, names = (_read_list(folder / name) for name in ("labels.txt", "59_labels.txt"))
    names.pop("empty", None)
    names.pop(BACKGROUND, None)
    if len(names) != _CLASSES:
        raise UserError(f"{folder / '59_labels.txt'} names {len(names)} classes instead of 59.")
    if unknown := sorted(names.keys() - labels.keys()):
        raise UserError(
            f"{folder / 'labels.txt'} lacks classes of 59_labels.txt: {', '.join(unknown)}."
        )
    return {BACKGROUND: 0} | {name: labels[name] for name in sorted(names)}


def _read_list(path: Path) -> dict[str, int]:
    """The numbers of a list, by name."""
    numbers: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, colon, name = line.partition(":")
        if not line.strip():
            continue
        if not colon or not number.strip().isdigit() or not name.strip():
            raise UserError(f"{path} has the line {line!r}; it must be like '2: aeroplane'.")
        numbers[name.strip()] = int(number)
    return numbers


def prepare_pascal_context(root: Path) -> Path:
    """Convert the .mat files to annotations_detectron2/{train,val}: PNG of class ids.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: a .mat file or a list is broken.
    """
    folder = root / _FOLDER
    for name in ("labels.txt", "59_labels.txt"):
        require_path(folder / name, "It is on the page of Pascal Context.")
    labels = list(read_classes(folder).values())
    class_of = np.zeros(_LAST_LABEL + 1, dtype=np.uint8)  # the background
    class_of[labels] = np.arange(len(labels))
    for split in SPLITS:
        convert_label_maps(
            read_stems(_image_list(root, split), "It is in the archive of VOC 2010."),
            "LabelMap",
            class_of,
            images=root / _IMAGES / "JPEGImages",
            annotations=folder / "trainval",
            folder=folder / "annotations_detectron2" / split,
            description=f"Pascal Context {split}: labels",
        )
    return folder
