"""COCO 2017 panoptic with its semantic view: the class of each pixel.

Detectron2 registers `coco_2017_{train,val}_panoptic` and, for instances, `coco_2017_{train,val}`,
which need no preparation. Added are `coco_2017_{train,val}_panoptic_with_sem_seg`: the same with
semantic labels of all 133 classes, where Detectron2's own have one class for all things.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from mask_former.data.datasets.catalog import IGNORE_LABEL
from mask_former.data.datasets.panoptic import register_panoptic
from mask_former.data.datasets.preparing import (
    build_folder,
    require_files,
    require_path,
)
from mask_former.data.json_files import read_json
from mask_former.data.reading import read_ids
from mask_former.data.writing import write_image
from mask_former.errors import UserError

SPLITS = ("train", "val")
_SOURCE = "Unpack panoptic_annotations_trainval2017.zip, and the archives within it, in {}."


def register_coco(root: Path) -> None:
    """Register coco_2017_{train,val}_panoptic_with_sem_seg in `root`, the folder of data sets."""
    for split in SPLITS:
        register_panoptic(
            f"coco_2017_{split}_panoptic_with_sem_seg",
            **split_paths(root / "coco", split),
            categories=COCO_CATEGORIES,
            prepare_command="python -m tools.prepare_datasets coco",
        )


def split_paths(folder: Path, split: str) -> dict[str, Path]:
    """The locations of a split's files, by the names of `register_panoptic`'s arguments."""
    return {
        "image_root": folder / f"{split}2017",
        "panoptic_root": folder / f"panoptic_{split}2017",
        "panoptic_json": folder / "annotations" / f"panoptic_{split}2017.json",
        "json_file": folder / "annotations" / f"instances_{split}2017.json",
        "sem_seg_root": folder / f"panoptic_semseg_{split}2017",
    }


def prepare_coco(root: Path) -> Path:
    """Make coco/panoptic_semseg_{train,val}2017 from the panoptic labels.

    The pixels of a crowd have its class, unlabelled pixels 255.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: a panoptic PNG does not fit its JSON.
    """
    folder = root / "coco"
    contiguous = {category["id"]: index for index, category in enumerate(COCO_CATEGORIES)}
    for split in SPLITS:
        paths = split_paths(folder, split)
        source = _SOURCE.format(folder)
        content = read_json(require_path(paths["panoptic_json"], source))
        labels = require_path(paths["panoptic_root"], source)
        annotations = {annotation["file_name"]: annotation for annotation in content["annotations"]}
        require_files(labels, annotations)
        if paths["image_root"].exists():  # it is a download of its own
            require_files(paths["image_root"], [image["file_name"] for image in content["images"]])
        build_folder(
            paths["sem_seg_root"],
            annotations,
            partial(_convert, labels, contiguous),
            description=f"COCO {split}: semantic labels",
        )
    return folder


def _convert(
    folder: Path, contiguous: dict[int, int], annotation: dict[str, Any], path: Path
) -> None:
    source = folder / annotation["file_name"]
    ids = read_ids(source)
    labels = np.full(ids.shape, IGNORE_LABEL, dtype=np.uint8)
    covered = ids == 0
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        labels[mask] = contiguous[segment["category_id"]]
        covered |= mask
    if not covered.all():
        raise UserError(
            f"{source} holds segment ids that its JSON lacks, {np.unique(ids[~covered])[:5]}. "
            "Do they belong together? Download or unpack both again."
        )
    write_image(path, labels)
