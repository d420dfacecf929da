"""Cityscapes: street scenes of 19 classes, eight of them things.

Detectron2 registers `cityscapes_fine_{sem_seg,panoptic,instance_seg}_{train,val}`; here their
errors get a way out. Added are `cityscapes_fine_instance_{train,val}`, which read prepared masks,
where Detectron2's `instance_seg` needs cityscapesscripts and shapely to clip polygons.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from mask_former.data.coco_format import (
    AnnotatedImage,
    encode_ids,
    encode_mask,
    image_entry,
    shape_info,
    write_annotations,
)
from mask_former.data.datasets.catalog import IGNORE_LABEL, Records, check_dataset
from mask_former.data.datasets.instances import register_instances
from mask_former.data.datasets.preparing import (
    build_folder,
    pair_files,
    require_path,
    verify_folder,
)
from mask_former.data.reading import read_labels
from mask_former.data.writing import write_image
from mask_former.errors import MissingFileError, UserError

SPLITS = ("train", "val")
_PREPARE = "python -m tools.prepare_datasets cityscapes"
_IMAGE, _INSTANCES = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_TRAIN_IDS, _PANOPTIC = "_gtFine_labelTrainIds.png", "_gtFine_panoptic.png"
_THINGS = [category for category in CITYSCAPES_CATEGORIES if category["isthing"]]
# Contiguous ids of the instance data sets, which have no stuff.
_INSTANCE_CLASSES = {category["id"]: index for index, category in enumerate(_THINGS)}


def register_cityscapes(root: Path) -> None:
    """Register cityscapes_fine_instance_{train,val} in `root`, the folder of data sets."""
    folder = root / "cityscapes"
    for split in SPLITS:
        register_instances(
            f"cityscapes_fine_instance_{split}",
            image_root=folder / "leftImg8bit" / split,
            json_file=_instances_json(folder, split),
            categories=_THINGS,
            prepare_command=_PREPARE,
            evaluator_type="cityscapes_instance",
            gt_dir=folder / "gtFine" / split,
        )


def explain_builtin_cityscapes() -> None:
    """Complete the metadata of Detectron2's own Cityscapes, and explain its errors."""
    for split in SPLITS:
        for task in ("sem_seg", "panoptic", "instance_seg"):
            name = f"cityscapes_fine_{task}_{split}"
            DatasetCatalog.register(name, partial(_load_builtin, name, DatasetCatalog.pop(name)))
            MetadataCatalog.get(name).prepare_command = _PREPARE
        instances = MetadataCatalog.get(f"cityscapes_fine_instance_seg_{split}")
        instances.thing_dataset_id_to_contiguous_id = _INSTANCE_CLASSES


def _load_builtin(name: str, load: Callable[[], Records]) -> Records:
    check_dataset(name)
    try:
        return load()
    except AssertionError as error:
        raise MissingFileError(
            f"data set {name!r} is incomplete or not prepared: {error}. Make it complete with "
            f"`{_PREPARE}`."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"data set {name!r} is damaged, or of another version: reading it ends with "
            f"{type(error).__name__}: {error}. Unpack it again, and run `{_PREPARE}`."
        ) from error
    except ImportError as error:
        raise UserError(
            f"data set {name!r} is read with {error.name}, which is not installed: `pip install "
            "'mask-former[cityscapes]'`, or use "
            f"{name.replace('instance_seg', 'instance')!r}, which needs nothing more"
        ) from error


def prepare_cityscapes(root: Path) -> Path:
    """Make the semantic, panoptic and instance annotations of train and val.

    In gtFine these are {train,val}/*/*_labelTrainIds.png, cityscapes_panoptic_{train,val} with its
    JSON file, both as cityscapesscripts makes them, and cityscapes_instances_{train,val}.json in
    COCO's format.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: what exists already lacks files.
    """
    folder = root / "cityscapes"
    source = f"Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in {folder}."
    for split in SPLITS:
        images = require_path(folder / "leftImg8bit" / split, source)
        labels = require_path(folder / "gtFine" / split, source)
        for suffix in ("_gtFine_polygons.json", "_gtFine_labelIds.png"):  # read by Detectron2
            pair_files(images, labels, image_suffix=_IMAGE, label_suffix=suffix)
        pairs = pair_files(images, labels, image_suffix=_IMAGE, label_suffix=_INSTANCES)
        panoptic = folder / "gtFine" / f"cityscapes_panoptic_{split}"
        index, instances = panoptic.with_suffix(".json"), _instances_json(folder, split)
        if panoptic.exists() and not (index.exists() and instances.exists()):
            raise UserError(
                f"{panoptic} was made by another program: {index.name} and {instances.name} are "
                "not both beside it. Remove it and run the same command again."
            )
        stems = {f"{os.path.basename(stem)}{_PANOPTIC}": stem for stem in pairs}
        build_folder(
            panoptic,
            {name: pairs[stem][1] for name, stem in stems.items()},
            _convert,
            description=f"Cityscapes {split}: labels",
            finish=partial(_write_annotations, index, instances, stems),
        )
        verify_folder(labels, [f"{stem}{_TRAIN_IDS}" for stem in pairs])
    return folder


def _instances_json(folder: Path, split: str) -> Path:
    return folder / "gtFine" / f"cityscapes_instances_{split}.json"


def _convert(source: Path, path: Path) -> dict[str, Any]:
    """Write both label images of a map of instance ids; returns its size and segments."""
    ids = read_labels(source).astype(np.int32)
    # Groups of indistinct objects, and what has no instances, have their label as id.
    labels = np.where(ids < 1000, ids, ids // 1000)
    class_of = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    for category in CITYSCAPES_CATEGORIES:
        class_of[category["id"]] = category["trainId"]
    class_map = class_of[labels]
    # Segments of a class that is not evaluated are void.
    ids[class_map == IGNORE_LABEL] = 0
    segments = []
    for segment_id in np.unique(ids[ids > 0]).tolist():
        mask = ids == segment_id
        label = segment_id if segment_id < 1000 else segment_id // 1000
        segment = {
            "id": segment_id,
            "category_id": label,
            "iscrowd": int(segment_id < 1000 and label in _INSTANCE_CLASSES),
            **shape_info(mask),
        }
        if label in _INSTANCE_CLASSES:
            segment["segmentation"] = encode_mask(mask)
        segments.append(segment)
    write_image(str(source).replace(_INSTANCES, _TRAIN_IDS), class_map)
    write_image(path, encode_ids(ids))
    return {"height": ids.shape[0], "width": ids.shape[1], "segments": segments}


def _write_annotations(
    panoptic_json: Path, instances_json: Path, stems: dict[str, str], results: dict[str, Any]
) -> None:
    """Write the panoptic and the instance JSON.

    Args:
        panoptic_json, instances_json: to be written.
        stems: CITY/CITY_SEQUENCE_FRAME by panoptic file.
        results: of `_convert`, by panoptic file.
    """
    annotated_images = []
    for label_file, stem in stems.items():
        result = results[label_file]
        size = (result["height"], result["width"])
        entry = image_entry(os.path.basename(stem), f"{stem}{_IMAGE}", size)
        annotated_images.append(AnnotatedImage(entry, label_file, result["segments"]))
    categories = [
        {key: category[key] for key in ("id", "name", "isthing", "color")}
        for category in CITYSCAPES_CATEGORIES
    ]
    write_annotations(panoptic_json, instances_json, annotated_images, categories)
