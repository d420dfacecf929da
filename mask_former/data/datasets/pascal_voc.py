"""PASCAL VOC 2012: semantic labels of 20 kinds of objects and their background.

Its label maps are palette images of class ids, 255 at the objects' borders, and are read as they
are. "trainaug", on which models for it are mostly trained, adds the images that the Semantic
Boundaries Dataset (SBD) labels with the same classes, but for those that VOC validates on.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mask_former.data.datasets.catalog import IGNORE_LABEL, Records, register_lazily
from mask_former.data.datasets.matlab import convert_label_maps
from mask_former.data.datasets.preparing import read_stems, require_files, require_path
from mask_former.data.datasets.semantic import load_semantic, register_semantic
from mask_former.errors import UserError

SPLITS = ("train", "val")
_OBJECTS = 20
_VOC = Path("VOCdevkit") / "VOC2012"
_SBD = Path("benchmark_RELEASE") / "dataset"
_MADE = "annotations_detectron2"


def register_pascal_voc(root: Path) -> None:
    """Register pascal_voc_sem_seg_{train,trainaug,val} in `root`, the folder of data sets."""
    voc = root / _VOC
    common = {
        "image_root": voc / "JPEGImages",
        "read_metadata": partial(_read_metadata, voc),
        "ignore_label": IGNORE_LABEL,
        "prepare_command": "python -m tools.prepare_datasets pascal_voc",
    }
    for split in SPLITS:
        register_semantic(
            f"pascal_voc_sem_seg_{split}",
            sem_seg_root=voc / "SegmentationClass",
            image_list=_image_list(root, split),
            **common,
        )
    register_lazily(
        "pascal_voc_sem_seg_trainaug",
        partial(_load_augmented, root),
        evaluator_type="sem_seg",
        sem_seg_root=root / _SBD / _MADE,
        **common,
    )


def _load_augmented(root: Path) -> Records:
    added = [
        {
            "file_name": str(root / _VOC / "JPEGImages" / f"{stem}.jpg"),
            "sem_seg_file_name": str(root / _SBD / _MADE / f"{stem}.png"),
        }
        for stem in _sbd(root)
    ]
    return load_semantic("pascal_voc_sem_seg_train") + added


def _image_list(root: Path, split: str) -> Path:
    return root / _VOC / "ImageSets" / "Segmentation" / f"{split}.txt"


def _sbd(root: Path) -> list[str]:
    """The images of SBD that VOC neither trains nor validates on, in the order of their names."""
    source = "Unpack benchmark.tgz of SBD again."
    sbd = {stem for split in SPLITS for stem in read_stems(root / _SBD / f"{split}.txt", source)}
    return sorted(sbd - {s for split in SPLITS for s in read_stems(_image_list(root, split))})


def _read_metadata(voc: Path) -> dict[str, Any]:
    return {"stuff_classes": read_classes(voc)}


def read_classes(voc: Path) -> list[str]:
    """The names of the 21 classes: VOC's lists of images are named after them, and their ids are
    in the order of the alphabet.

    Raises:
        FileNotFoundError: there is no folder of such lists.
        UserError: it has not 20 of them.
    """
    folder = require_path(voc / "ImageSets" / "Main", "It is in the archive of VOC 2012.")
    names = sorted(path.name.removesuffix("_train.txt") for path in folder.glob("*_train.txt"))
    if len(names) != _OBJECTS:
        raise UserError(
            f"{folder} has {len(names)} lists *_train.txt, VOC {_OBJECTS}, one for each class. "
            "Unpack the archive again."
        )
    return ["background", *names]


def prepare_pascal_voc(root: Path) -> Path:
    """Check the files of VOC 2012 and, if SBD is there, convert its .mat files to PNG.

    Raises:
        FileNotFoundError: a download is incomplete.
        UserError: a .mat file is broken.
    """
    voc, sbd = root / _VOC, root / _SBD
    read_classes(voc)
    for split in SPLITS:
        stems = read_stems(_image_list(root, split), "It is in the archive of VOC 2012.")
        require_files(voc / "JPEGImages", [f"{stem}.jpg" for stem in stems])
        require_files(voc / "SegmentationClass", [f"{stem}.png" for stem in stems])
    if sbd.exists():
        convert_label_maps(
            _sbd(root),
            "GTcls.Segmentation",
            np.arange(_OBJECTS + 1, dtype=np.uint8),  # labels are class ids
            images=voc / "JPEGImages",
            annotations=sbd / "cls",
            folder=sbd / _MADE,
            description="SBD: labels",
        )
    return voc
