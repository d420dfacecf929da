"""ADE20K with the 150 classes of the scene parsing challenge: semantic, panoptic, instance.

The challenge's download has semantic labels. Panoptic annotations combine them, for the stuff, with
the instance challenge's annotation of 100 of the classes, the things.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog

from mask_former.data.coco_format import (
    AnnotatedImage,
    encode_ids,
    encode_mask,
    image_entry,
    shape_info,
    write_annotations,
)
from mask_former.data.datasets.catalog import IGNORE_LABEL
from mask_former.data.datasets.instances import register_instances
from mask_former.data.datasets.panoptic import register_panoptic
from mask_former.data.datasets.preparing import build_folder, pair_files, require_path
from mask_former.data.reading import read_lossless
from mask_former.data.writing import write_image
from mask_former.errors import UserError

FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}
CLASSES_FILE = "objectInfo150.txt"
THINGS_FILE = "categoryMapping.txt"

_PREPARE = "python -m tools.prepare_datasets"
# The number of an instance is a byte.
_MAX_INSTANCES = 256


def panoptic_paths(folder: Path, split: str) -> dict[str, Path]:
    """The locations of a split's files, by the names of `register_panoptic`'s arguments."""
    return {
        "image_root": folder / "images" / SPLITS[split],
        "panoptic_root": folder / f"ade20k_panoptic_{split}",
        "panoptic_json": folder / f"ade20k_panoptic_{split}.json",
        "json_file": folder / f"ade20k_instance_{split}.json",
        "sem_seg_root": folder / "annotations_detectron2" / SPLITS[split],
    }


def register_ade20k(root: Path) -> None:
    """Register ade20k_panoptic_{train,val} and ade20k_instance_{train,val} below `root`.

    Detectron2 registers ade20k_sem_seg_{train,val}; only their `prepare_command` is added.
    """
    for split in SPLITS:
        MetadataCatalog.get(f"ade20k_sem_seg_{split}").prepare_command = f"{_PREPARE} ade20k"
        paths = panoptic_paths(root / FOLDER, split)
        command = f"{_PREPARE} ade20k_panoptic"
        register_panoptic(f"ade20k_panoptic_{split}", **paths, prepare_command=command)
        register_instances(
            f"ade20k_instance_{split}",
            image_root=paths["image_root"],
            json_file=paths["json_file"],
            prepare_command=command,
        )


def prepare_ade20k(root: Path) -> Path:
    """Make `annotations_detectron2`: semantic labels that count from 0, 255 being void.

    Raises:
        FileNotFoundError, UserError: the download is incomplete or broken.
    """
    folder = require_path(root / FOLDER)
    num_classes = len(read_classes(folder))
    for split in SPLITS.values():
        pairs = pair_files(folder / "images" / split, folder / "annotations" / split)
        build_folder(
            folder / "annotations_detectron2" / split,
            {f"{stem}.png": label_file for stem, (_, label_file) in pairs.items()},
            partial(_write_semantic, num_classes),
            description=f"ADE20K, {split}, semantic",
        )
    return folder


def prepare_ade20k_panoptic(root: Path) -> Path:
    """Make panoptic and instance annotations in COCO's formats, and the semantic labels.

    Raises:
        FileNotFoundError, UserError: the download is incomplete or broken.
    """
    folder = require_path(root / FOLDER)
    things = read_things(folder)
    categories = [
        {"id": index, "name": name, "isthing": int(index in things.values())}
        for index, name in enumerate(read_classes(folder))
    ]
    prepare_ade20k(root)
    for split, long_split in SPLITS.items():
        images = folder / "images" / long_split
        semantic = pair_files(images, folder / "annotations" / long_split)
        instances = pair_files(images, folder / "annotations_instance" / long_split)
        paths = panoptic_paths(folder, split)
        build_folder(
            paths["panoptic_root"],
            {f"{stem}.png": (semantic[stem][1], instances[stem][1]) for stem in semantic},
            partial(_write_panoptic, things),
            description=f"ADE20K, {long_split}, panoptic",
            finish=partial(_write_annotations, paths, categories),
        )
        for key in ("panoptic_json", "json_file"):
            require_path(
                paths[key], f"Remove {paths['panoptic_root']} and run the same command again."
            )
    return folder


def read_classes(folder: Path) -> list[str]:
    """The class names, in the order of the labels, of objectInfo150.txt."""
    path = require_path(folder / CLASSES_FILE)
    # Index, share of pixels, number of training and of validation images, whether stuff; name.
    rows = [row.split(maxsplit=5) for row in _rows(path)]
    in_order = [row[0] for row in rows] == [str(i) for i in range(1, len(rows) + 1)]
    if not rows or not in_order or any(len(row) < 6 for row in rows):
        raise UserError(
            f"{path}: expected a header, then lines of `Idx Ratio Train Val Stuff Name` that "
            "count from 1. Download the data set again."
        )
    return [row[-1].strip() for row in rows]


def read_things(folder: Path) -> dict[int, int]:
    """The contiguous class id of each category of the instance challenge: the things."""
    path = require_path(
        folder / THINGS_FILE,
        "It belongs to the instance challenge: "
        "github.com/CSAILVision/placeschallenge, folder instancesegmentation.",
    )
    rows = [row.split() for row in _rows(path)]
    # Category of the instance challenge, of the scene parsing challenge, of the full ADE20K.
    if not rows or not all(len(row) == 3 and "".join(row).isdigit() for row in rows):
        raise UserError(f"{path}: expected a header, then lines of three numbers.")
    return {int(category): int(label) - 1 for category, label, _ in rows}


def _rows(path: Path) -> Iterator[str]:
    """The lines of a table without its header."""
    return (line for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip())


def _write_semantic(num_classes: int, source: Path, target: Path) -> None:
    labels = _read_semantic(source)
    if labels.max() > num_classes:
        raise UserError(f"{source} holds the label {labels.max()}, above {num_classes}")
    write_image(target, np.where(labels == 0, IGNORE_LABEL, labels - 1).astype(np.uint8))


def _read_semantic(path: Path) -> np.ndarray:
    labels = read_lossless(path)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise UserError(f"{path} is {labels.dtype} {labels.shape}, not a map of 8-bit labels")
    return labels.astype(np.int32)


class PanopticSegment(NamedTuple):
    """A segment of an image: its class (contiguous id), and whether that is a thing."""

    category: int
    isthing: bool


def panoptic_map(
    semantic: np.ndarray, instances: np.ndarray, things: dict[int, int]
) -> tuple[np.ndarray, list[PanopticSegment]]:
    """The segments of an image: one for each stuff class, and one for each instance of a thing.

    Instances cover stuff. Pixels of a thing class that belong to no instance are void.

    Args:
        semantic: labels, 0 for void, integers (H, W).
        instances: RGB of the instance challenge, uint8 (H, W, 3): red is the category, green the
            number of the instance.
        things: contiguous class id of each category of the instance challenge.

    Returns:
        index of each pixel's segment, counted from 1, 0 for void, (H, W); and the segments.
    """
    class_of = np.full(256, -1)
    class_of[list(things)] = list(things.values())
    thing, number = class_of[instances[..., 0]], instances[..., 1].astype(np.int64)
    is_instance = (thing >= 0) & (number > 0)
    is_stuff = (semantic > 0) & ~np.isin(semantic - 1, list(things.values()))
    # The number of an instance is not 0; stuff gets 0.
    codes = np.where(is_stuff, semantic - 1, -1)
    codes = np.where(is_instance, thing * _MAX_INSTANCES + number, codes * _MAX_INSTANCES)
    found = np.unique(codes[codes >= 0])
    segment_map = np.where(codes >= 0, np.searchsorted(found, codes) + 1, 0)
    return segment_map, [
        PanopticSegment(int(code // _MAX_INSTANCES), bool(code % _MAX_INSTANCES)) for code in found
    ]


def _write_panoptic(things: dict[int, int], sources: tuple[Path, Path], target: Path) -> dict:
    """Write one panoptic image; returns its size and segments for the JSON files."""
    semantic, instances = _read_semantic(sources[0]), read_lossless(sources[1])
    if instances.shape != (*semantic.shape, 3):
        raise UserError(
            f"{sources[1]} has the shape {instances.shape}, but should be RGB of the size of "
            f"{sources[0]}, {semantic.shape}"
        )
    if unknown := set(np.unique(instances[..., 0]).tolist()) - {0, *things}:
        raise UserError(f"{sources[1]} holds categories not in {THINGS_FILE}: {sorted(unknown)}")
    segment_map, segments = panoptic_map(semantic, instances, things)
    write_image(target, encode_ids(segment_map))
    annotations = []
    for index, segment in enumerate(segments, start=1):
        mask = segment_map == index
        annotation = {"id": index, "category_id": segment.category, "iscrowd": 0}
        annotation.update(shape_info(mask))
        if segment.isthing:
            annotation["segmentation"] = encode_mask(mask)
        annotations.append(annotation)
    height, width = semantic.shape
    return {"height": height, "width": width, "segments": annotations}


def _write_annotations(
    paths: dict[str, Path], categories: list[dict[str, Any]], results: dict[str, Any]
) -> None:
    """Write the panoptic and the instance JSON of a split."""
    annotated_images = [
        AnnotatedImage(
            image_entry(image_id, Path(file).with_suffix(".jpg").name, (r["height"], r["width"])),
            file,
            r["segments"],
        )
        for image_id, (file, r) in enumerate(results.items(), start=1)
    ]
    write_annotations(paths["panoptic_json"], paths["json_file"], annotated_images, categories)
