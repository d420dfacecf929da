"""COCO-Stuff-10K: semantic labels of 80 thing and 91 stuff classes for 10,000 images of COCO.

Labels are COCO's: 1 to 91 for things, of which COCO never annotated eleven, and 92 to 182 for
stuff; 0 is unlabelled. A class id is the rank of its label among those in use.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from mask_former.data.datasets.catalog import IGNORE_LABEL, Records, register_lazily
from mask_former.data.datasets.matlab import read_mat, read_mat_labels, read_stems
from mask_former.data.datasets.preparing import build_folder, require_files, require_path
from mask_former.data.writing import write_image
from mask_former.errors import UserError

SPLITS = ("train", "test")
LAST_THING, LAST_STUFF = 91, 182
_FOLDER = Path("coco") / "coco_stuff_10k"


def register_coco_stuff_10k(root: Path) -> None:
    """Register coco_2017_{train,test}_stuff_10k_sem_seg in `root`, the folder of data sets."""
    folder = root / _FOLDER
    for split in SPLITS:
        register_lazily(
            f"coco_2017_{split}_stuff_10k_sem_seg",
            partial(_load, folder, split),
            partial(_read_metadata, folder),
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            image_root=folder / "images",
            sem_seg_root=folder / "annotations_detectron2" / split,
            prepare_command="python -m tools.prepare_datasets coco_stuff_10k",
        )


def _load(folder: Path, split: str) -> Records:
    return [
        {
            "file_name": str(folder / "images" / f"{stem}.jpg"),
            "sem_seg_file_name": str(folder / "annotations_detectron2" / split / f"{stem}.png"),
        }
        for stem in _read_stems(folder, split)
    ]


def _read_metadata(folder: Path) -> dict[str, Any]:
    stem = _read_stems(folder, SPLITS[0])[0]
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

    Args:
        root: the folder of all data sets.

    Returns:
        `root`/coco/coco_stuff_10k.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: a .mat file is broken.
    """
    folder = root / _FOLDER
    for split in SPLITS:
        require_path(
            folder / "imageLists" / f"{split}.txt", f"Unpack cocostuff-10k-v1.1.zip in {folder}."
        )
        stems = _read_stems(folder, split)
        require_files(folder / "images", [f"{stem}.jpg" for stem in stems])
        require_files(folder / "annotations", [f"{stem}.mat" for stem in stems])
        build_folder(
            folder / "annotations_detectron2" / split,
            {f"{stem}.png": folder / "annotations" / f"{stem}.mat" for stem in stems},
            _convert,
            description=f"COCO-Stuff-10K {split}: labels",
        )
    read_classes(folder / "annotations" / f"{stems[0]}.mat")
    return folder


def _convert(source: Path, path: Path) -> None:
    labels = read_mat_labels(source, "S", LAST_STUFF)
    class_of = np.full(LAST_STUFF + 1, IGNORE_LABEL, dtype=np.uint8)
    used = used_labels()
    class_of[used] = np.arange(len(used))
    write_image(path, class_of[labels])


def _read_stems(folder: Path, split: str) -> list[str]:
    return read_stems(folder / "imageLists" / f"{split}.txt")
