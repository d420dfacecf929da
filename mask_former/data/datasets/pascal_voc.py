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
from mask_former.data.datasets.matlab import read_mat_labels, read_stems
from mask_former.data.datasets.preparing import build_folder, require_files, require_path
from mask_former.data.writing import write_image
from mask_former.errors import UserError

SPLITS = ("train", "val")
_OBJECTS = 20
_VOC = Path("VOCdevkit") / "VOC2012"
_SBD = Path("benchmark_RELEASE") / "dataset"
_MADE = "annotations_detectron2"


def register_pascal_voc(root: Path) -> None:
    """Register pascal_voc_sem_seg_{train,trainaug,val} in `root`, the folder of data sets."""
    voc = root / _VOC
    for split in (*SPLITS, "trainaug"):
        is_augmented = split == "trainaug"
        register_lazily(
            f"pascal_voc_sem_seg_{split}",
            partial(_load_augmented, root) if is_augmented else partial(_load, root, split),
            partial(_read_metadata, voc),
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            image_root=voc / "JPEGImages",
            sem_seg_root=root / _SBD / _MADE if is_augmented else voc / "SegmentationClass",
            prepare_command="python -m tools.prepare_datasets pascal_voc",
        )


def _load(root: Path, split: str) -> Records:
    return [
        _record(root / _VOC, stem, root / _VOC / "SegmentationClass") for stem in _voc(root, split)
    ]


def _load_augmented(root: Path) -> Records:
    added = [_record(root / _VOC, stem, root / _SBD / _MADE) for stem in _sbd(root)]
    return _load(root, "train") + added


def _record(voc: Path, stem: str, labels: Path) -> dict[str, str]:
    return {
        "file_name": str(voc / "JPEGImages" / f"{stem}.jpg"),
        "sem_seg_file_name": str(labels / f"{stem}.png"),
    }


def _voc(root: Path, split: str) -> list[str]:
    return read_stems(root / _VOC / "ImageSets" / "Segmentation" / f"{split}.txt")


def _sbd(root: Path) -> list[str]:
    """The images of SBD that VOC neither trains nor validates on, in the order of their names."""
    stems = {stem for split in SPLITS for stem in read_stems(root / _SBD / f"{split}.txt")}
    return sorted(stems - {stem for split in SPLITS for stem in _voc(root, split)})


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

    Args:
        root: the folder of all data sets.

    Returns:
        `root`/VOCdevkit/VOC2012.

    Raises:
        FileNotFoundError: a download is incomplete.
        UserError: a .mat file is broken.
    """
    voc, sbd = root / _VOC, root / _SBD
    read_classes(voc)
    for split in SPLITS:
        require_path(
            voc / "ImageSets" / "Segmentation" / f"{split}.txt", "It is in the archive of VOC 2012."
        )
        stems = _voc(root, split)
        require_files(voc / "JPEGImages", [f"{stem}.jpg" for stem in stems])
        require_files(voc / "SegmentationClass", [f"{stem}.png" for stem in stems])
    if not sbd.exists():
        return voc
    for split in SPLITS:
        require_path(sbd / f"{split}.txt", "Unpack benchmark.tgz of SBD again.")
    stems = _sbd(root)
    require_files(voc / "JPEGImages", [f"{stem}.jpg" for stem in stems])
    require_files(sbd / "cls", [f"{stem}.mat" for stem in stems])
    build_folder(
        sbd / _MADE,
        {f"{stem}.png": sbd / "cls" / f"{stem}.mat" for stem in stems},
        _convert,
        description="SBD: labels",
    )
    return voc


def _convert(source: Path, path: Path) -> None:
    labels = read_mat_labels(source, "GTcls.Segmentation", _OBJECTS)
    write_image(path, labels.astype(np.uint8))
