"""COCO-Stuff-10K: semantic labels of 80 thing and 91 stuff classes for 10,000 images of COCO.

Labels are COCO's: 1 to 91 for things, of which COCO never annotated eleven, and 92 to 182 for
stuff; 0 is unlabelled. A class id is the rank of its label among those in use.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from mask_former.data.datasets.catalog import IGNORE_LABEL
from mask_former.data.datasets.matlab import convert_label_maps, read_mat
from mask_former.data.datasets.preparing import read_stems
from mask_former.data.datasets.semantic import register_semantic
from mask_former.errors import UserError

SPLITS = ("train", "test")
LAST_THING, LAST_STUFF = 91, 182
_FOLDER = Path("coco") / "coco_stuff_10k"


def register_coco_stuff_10k(root: Path) -> None:
    """Register coco_2017_{train,test}_stuff_10k_sem_seg in `root`, the folder of data sets."""
    folder = root / _FOLDER
    for split in SPLITS:
        register_semantic(
            f"coco_2017_{split}_stuff_10k_sem_seg",
            image_root=folder / "images",
            sem_seg_root=folder / "annotations_detectron2" / split,
            image_list=_image_list(folder, split),
            read_metadata=partial(_read_metadata, folder),
            ignore_label=IGNORE_LABEL,
            prepare_command="python -m tools.prepare_datasets coco_stuff_10k",
        )


def _image_list(folder: Path, split: str) -> Path:
    return folder / "imageLists" / f"{split}.txt"


def _read_metadata(folder: Path) -> dict[str, Any]:
    stem = read_stems(_image_list(folder, SPLITS[0]))[0]
    return {"stuff_classes": read_classes(folder / "annotations" / f"{stem}.mat")}


def read_classes(path: Path) -> list[str]:
    """The names of the 171 classes, from any of the data set's .mat files.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is broken, or names other labels.
    """
    names = [str(name) for name in np.ravel(read_mat(path, "names"))]
    if names and names[0] == "unlabeled":
        del names[0]
    if len(names) != LAST_STUFF:
        raise UserError(f"{path} names {len(names)} labels, COCO-Stuff-10K has {LAST_STUFF}")
    return [names[label - 1] for label in used_labels()]


def used_labels() -> list[int]:
    """The label of each class, ascending."""
    things = {category["id"] for category in COCO_CATEGORIES if category["isthing"]}
    return sorted(things.union(range(LAST_THING + 1, LAST_STUFF + 1)))


def prepare_coco_stuff_10k(root: Path) -> Path:
    """Convert the .mat files to annotations_detectron2/{train,test}: PNG of class ids, 255: none.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: a .mat file is broken.
    """
    folder, used = root / _FOLDER, used_labels()
    class_of = np.full(LAST_STUFF + 1, IGNORE_LABEL, dtype=np.uint8)
    class_of[used] = np.arange(len(used))
    for split in SPLITS:
        convert_label_maps(
            read_stems(_image_list(folder, split), f"Unpack cocostuff-10k-v1.1.zip in {folder}."),
            "S",
            class_of,
            images=folder / "images",
            annotations=folder / "annotations",
            folder=folder / "annotations_detectron2" / split,
            description=f"COCO-Stuff-10K {split}: labels",
        )
    _read_metadata(folder)
    return folder
