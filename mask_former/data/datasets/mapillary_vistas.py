"""Mapillary Vistas 1.2: street scenes of 65 classes, semantic and panoptic.

Its label images hold the contiguous ids of the classes, and 65 for unlabelled pixels, so that
nothing needs to be converted.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mask_former.data.classes import contiguous_ids
from mask_former.data.coco_json import panoptic_categories
from mask_former.data.datasets.catalog import register_lazily
from mask_former.data.datasets.panoptic import load_panoptic, panoptic_metadata
from mask_former.data.datasets.preparing import pair_files, require_files, require_path
from mask_former.data.datasets.semantic import register_semantic
from mask_former.data.json_files import read_json
from mask_former.data.reading import read_ids, read_labels
from mask_former.errors import UserError

SPLITS = {"train": "training", "val": "validation"}
_PREPARE = "python -m tools.prepare_datasets mapillary_vistas"


def register_mapillary_vistas(root: Path) -> None:
    """Register mapillary_vistas_{sem_seg,panoptic}_{train,val} in `root`."""
    config = root / "mapillary_vistas" / "config.json"
    for split in SPLITS:
        paths = split_paths(root, split)
        register_semantic(
            f"mapillary_vistas_sem_seg_{split}",
            image_root=paths["image_root"],
            sem_seg_root=paths["sem_seg_root"],
            read_metadata=partial(read_classes, config),
            prepare_command=_PREPARE,
        )
        name = f"mapillary_vistas_panoptic_{split}"
        register_lazily(
            name,
            partial(load_panoptic, name),
            partial(_read_panoptic_metadata, name, config, paths["panoptic_json"]),
            evaluator_type="coco_panoptic_seg",
            prepare_command=_PREPARE,
            **paths,
        )


def split_paths(root: Path, split: str) -> dict[str, Path]:
    """The locations of a split's files, by their names in Detectron2's metadata."""
    folder = root / "mapillary_vistas" / SPLITS[split]
    return {
        "image_root": folder / "images",
        "sem_seg_root": folder / "labels",
        "panoptic_root": folder / "panoptic",
        "panoptic_json": folder / "panoptic" / "panoptic_2018.json",
    }


def read_classes(config: Path) -> dict[str, Any]:
    """`stuff_classes`, `stuff_colors` and `ignore_label`, from the data set's config.json.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not that of Vistas, whose last label is for what is unlabelled.
    """
    labels = read_json(config).get("labels", [])
    if not labels or not labels[-1]["name"].endswith("unlabeled"):
        raise UserError(
            f"{config} should list labels of which the last one is void--unlabeled, as that of "
            "Vistas 1.2 does. In the download of 2.0 it is called config_v1.2.json."
        )
    return {
        "stuff_classes": [label["readable"] for label in labels[:-1]],
        "stuff_colors": [label["color"] for label in labels[:-1]],
        "ignore_label": len(labels) - 1,
    }


def _read_panoptic_metadata(name: str, config: Path, panoptic_json: Path) -> dict[str, Any]:
    classes = read_classes(config)
    categories = sorted(panoptic_categories(str(panoptic_json)), key=lambda c: c["id"])
    if len(categories) != len(classes["stuff_classes"]):
        raise UserError(
            f"{panoptic_json} has {len(categories)} categories, {config} "
            f"{len(classes['stuff_classes'])}; they are not of one version"
        )
    return {**panoptic_metadata(name, categories), "ignore_label": classes["ignore_label"]}


def prepare_mapillary_vistas(root: Path) -> Path:
    """Check that the download is complete, and that semantic and panoptic classes agree.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: its files contradict each other.
    """
    folder = root / "mapillary_vistas"
    config = require_path(
        folder / "config.json", f"Unpack mapillary-vistas-dataset 1.2 in {folder}."
    )
    for split in SPLITS:
        paths = split_paths(root, split)
        pair_files(paths["image_root"], paths["sem_seg_root"])
        if not paths["panoptic_root"].exists():  # semantic segmentation needs none
            continue
        content = read_json(require_path(paths["panoptic_json"]))
        require_files(paths["panoptic_root"], [a["file_name"] for a in content["annotations"]])
        name = f"mapillary_vistas_panoptic_{split}"
        metadata = _read_panoptic_metadata(name, config, paths["panoptic_json"])
        _check_classes_agree(content["annotations"][0], paths, metadata)
    return folder


def _check_classes_agree(
    annotation: dict[str, Any], paths: dict[str, Path], metadata: dict[str, Any]
) -> None:
    """Compare the classes of an image's segments with its semantic labels."""
    contiguous = contiguous_ids(metadata)
    ids = read_ids(paths["panoptic_root"] / annotation["file_name"])
    labels = read_labels(paths["sem_seg_root"] / annotation["file_name"])
    for segment in annotation["segments_info"]:
        class_id = contiguous[segment["category_id"]]
        inside = labels[ids == segment["id"]]
        if inside.size and np.bincount(inside).argmax() != class_id:
            raise UserError(
                f"{paths['panoptic_json']}: segment {segment['id']} of {annotation['file_name']} "
                f"has the category {segment['category_id']} (class {class_id}), but the semantic "
                f"labels say {np.bincount(inside).argmax()}; they are not of one version"
            )
