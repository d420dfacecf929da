"""ADE20K with the 150 classes of the scene parsing challenge: semantic, panoptic, instance.

Semantic labels come with the challenge's download. Panoptic ones are made of these, for the stuff,
and of the instance challenge's annotation of 100 of the classes, the things.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog

from mask_former.data.coco_format import encode_ids, encode_mask, shape_info
from mask_former.data.datasets.catalog import IGNORE_LABEL
from mask_former.data.datasets.instances import register_instances
from mask_former.data.datasets.panoptic import register_panoptic
from mask_former.data.datasets.preparing import (
    build_folder,
    pair_files,
    read_labels,
    require,
    write_json,
    write_labels,
)
from mask_former.errors import UserError

FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}
CLASSES_FILE = "objectInfo150.txt"
THINGS_FILE = "categoryMapping.txt"

_PREPARE = "python -m tools.prepare_datasets"
# Of an instance image's channels, the first is the category and the second counts its instances.
_MAX_INSTANCES = 256


def panoptic_paths(folder: Path, split: str) -> dict[str, Path]:
    """Where the files of a split are, under the names of `register_panoptic`'s arguments."""
    return {
        "image_root": folder / "images" / SPLITS[split],
        "panoptic_root": folder / f"ade20k_panoptic_{split}",
        "panoptic_json": folder / f"ade20k_panoptic_{split}.json",
        "json_file": folder / f"ade20k_instance_{split}.json",
        "sem_seg_root": folder / "annotations_detectron2" / SPLITS[split],
    }


def register_ade20k(root: Path) -> None:
    """Register ade20k_panoptic_{train,val} and ade20k_instance_{train,val} below `root`.

    Detectron2 has ade20k_sem_seg_{train,val}; they are told where their files come from.
    """
    for split in SPLITS:
        MetadataCatalog.get(f"ade20k_sem_seg_{split}").made_by = f"{_PREPARE} ade20k"
        paths = panoptic_paths(root / FOLDER, split)
        made_by = f"{_PREPARE} ade20k_panoptic"
        register_panoptic(f"ade20k_panoptic_{split}", **paths, made_by=made_by)
        register_instances(
            f"ade20k_instance_{split}",
            image_root=paths["image_root"],
            json_file=paths["json_file"],
            made_by=made_by,
        )


def prepare_ade20k(root: Path) -> Path:
    """Make semantic labels that count from 0, 255 being void: `annotations_detectron2`.

    Raises:
        FileNotFoundError, ValueError: the download is incomplete or broken.
    """
    folder = require(root / FOLDER)
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
    """Make panoptic and instance annotations in COCO's formats, and the semantic ones.

    Raises:
        FileNotFoundError, ValueError: the download is incomplete or broken.
    """
    folder = require(root / FOLDER)
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
            require(paths[key], f"Remove {paths['panoptic_root']} and run the same command again.")
    return folder


def read_classes(folder: Path) -> list[str]:
    """The class names, in the order of the labels, of objectInfo150.txt."""
    path = require(folder / CLASSES_FILE)
    # Index, share of pixels, images in training and validation, whether stuff; then the name.
    rows = [row.split(maxsplit=5) for row in _rows(path)]
    in_order = [row[0] for row in rows] == [str(i) for i in range(1, len(rows) + 1)]
    if not rows or not in_order or any(len(row) < 6 for row in rows):
        raise UserError(
            f"{path}: expected a head line, then lines of `Idx Ratio Train Val Stuff Name` that "
            "count from 1. Download the data set again."
        )
    return [row[-1].strip() for row in rows]


def read_things(folder: Path) -> dict[int, int]:
    """The contiguous class id of each category of the instance challenge: the things."""
    path = require(
        folder / THINGS_FILE,
        "It belongs to the instance challenge: "
        "github.com/CSAILVision/placeschallenge, folder instancesegmentation.",
    )
    rows = [row.split() for row in _rows(path)]
    # Category of the instance challenge, of the scene parsing challenge, of the full ADE20K.
    if not rows or not all(len(row) == 3 and "".join(row).isdigit() for row in rows):
        raise UserError(f"{path}: expected a head line, then lines of three numbers.")
    return {int(category): int(label) - 1 for category, label, _ in rows}


def _rows(path: Path) -> Iterator[str]:
    """The lines of a table but its head."""
    return (line for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip())


def _write_semantic(num_classes: int, source: Path, target: Path) -> None:
    labels = _read_semantic(source)
    if labels.max() > num_classes:
        raise UserError(f"{source} holds the label {labels.max()}, above {num_classes}")
    write_labels(target, np.where(labels == 0, IGNORE_LABEL, labels - 1).astype(np.uint8))


def _read_semantic(path: Path) -> np.ndarray:
    labels = read_labels(path)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise UserError(f"{path} is {labels.dtype} {labels.shape}, not a map of 8-bit labels")
    return labels.astype(np.int32)


class Segment(NamedTuple):
    """A segment of an image: its class (contiguous id), and whether that is a thing."""

    category: int
    isthing: bool


def panoptic_map(
    semantic: np.ndarray, instances: np.ndarray, things: dict[int, int]
) -> tuple[np.ndarray, list[Segment]]:
    """Segments of an image: all pixels of a stuff class are one, each instance of a thing is one.

    Instances lie above stuff. Pixels of a thing class that belong to no instance are void.

    Args:
        semantic: labels, 0 for void, integers (H, W).
        instances: category of the instance challenge, number of the instance, uint8 (H, W, 3).
        things: contiguous class id of each of these categories.

    Returns:
        index of each pixel's segment, counted from 1, 0 for void, (H, W); and the segments.
    """
    class_of = np.full(256, -1)
    class_of[list(things)] = list(things.values())
    thing, number = class_of[instances[..., 0]], instances[..., 1].astype(np.int64)
    is_instance = (thing >= 0) & (number > 0)
    is_stuff = (semantic > 0) & ~np.isin(semantic - 1, list(things.values()))
    # Stuff is told by its class alone; of things, the number is not 0.
    codes = np.where(is_stuff, semantic - 1, -1)
    codes = np.where(is_instance, thing * _MAX_INSTANCES + number, codes * _MAX_INSTANCES)
    found = np.unique(codes[codes >= 0])
    segment_map = np.where(codes >= 0, np.searchsorted(found, codes) + 1, 0)
    return segment_map, [
        Segment(int(code // _MAX_INSTANCES), bool(code % _MAX_INSTANCES)) for code in found
    ]


def _write_panoptic(things: dict[int, int], sources: tuple[Path, Path], target: Path) -> dict:
    """Write one panoptic image; returns what the JSON files say of it."""
    semantic, instances = _read_semantic(sources[0]), read_labels(sources[1])
    if instances.shape != (*semantic.shape, 3):
        raise UserError(
            f"{sources[1]} has the shape {instances.shape}, but should be RGB of the size of "
            f"{sources[0]}, {semantic.shape}"
        )
    if unknown := set(np.unique(instances[..., 0]).tolist()) - {0, *things}:
        raise UserError(f"{sources[1]} holds categories not in {THINGS_FILE}: {sorted(unknown)}")
    segment_map, segments = panoptic_map(semantic, instances, things)
    write_labels(target, encode_ids(segment_map))
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
    images, panoptic, instances = [], [], []
    for image_id, (file_name, result) in enumerate(results.items(), start=1):
        size = {key: result[key] for key in ("height", "width")}
        image_name = Path(file_name).with_suffix(".jpg").name
        images.append({"id": image_id, "file_name": image_name, **size})
        for segment in result["segments"]:
            if "segmentation" in segment:
                instances.append({**segment, "id": len(instances) + 1, "image_id": image_id})
        segments = [
            {key: value for key, value in segment.items() if key != "segmentation"}
            for segment in result["segments"]
        ]
        panoptic.append({"image_id": image_id, "file_name": file_name, "segments_info": segments})
    content = {"images": images, "annotations": panoptic, "categories": categories}
    write_json(paths["panoptic_json"], content)
    things = [category for category in categories if category["isthing"]]
    write_json(paths["json_file"], {**content, "annotations": instances, "categories": things})
