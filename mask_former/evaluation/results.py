"""Saving predictions in COCO's formats.

A folder of results holds, depending on what the model predicts:

==================  ==========================================================================
`panoptic.json`     COCO panoptic: images, categories and the segments of every image, whose maps
                    lie in `panoptic/` as PNG files (segment id = R + 256 G + 65536 B)
`instances.json`    COCO instance results: a list of image, category, score, box and mask
                    (run-length encoded)
`semantic.json`     images and categories; the maps lie in `semantic/` as PNG files of class ids,
                    of 8 bits, or of 16 for more than 256 classes
`images.json`       the file of every `image_id`
==================  ==========================================================================

Category ids are those of the data set's own files; only semantic maps hold contiguous ids, for
which `semantic.json` gives both. Image ids are the data set's own in an evaluation; elsewhere
`find_image_ids` finds them, or they are numbers in order.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from torch import Tensor

from mask_former.data.classes import categories_of, dataset_category_ids
from mask_former.data.coco_format import encode_ids, image_entry, shape_info
from mask_former.data.json_files import Json, as_id, entries, read_json
from mask_former.data.writing import write_image, write_json
from mask_former.errors import UserError, listed

ImageId = int | str
Value = TypeVar("Value")


class ResultWriter:
    """Saves predictions image by image. A context manager: the JSON files are written on exit, also
    after an error.

    Args:
        folder: made if missing.
        metadata: Detectron2's `Metadata` of the data set whose classes the model knows.
    """

    def __init__(self, folder: str | Path, metadata: Metadata) -> None:
        self.folder = Path(folder)
        self._metadata = metadata
        self._images: list[Json] = []
        # Instances, or the entries of all images, by kind of result.
        self._found: dict[str, list[Any]] = {}

    def add(
        self,
        name: str,
        file_name: str,
        size: tuple[int, int],
        prediction: Mapping[str, Any],
        image_id: ImageId | None = None,
    ) -> None:
        """Save the prediction for one image.

        Args:
            name: of its maps, without suffix; no two images share one.
            file_name: the image's own, for the JSON files.
            size: height and width.
            prediction: the model's output; absent kinds are not saved.
            image_id: no two images share one; None: its number, in order.
        """
        image_id = len(self._images) + 1 if image_id is None else image_id
        image = image_entry(image_id, file_name, size)
        self._images.append(image)
        annotation: Json = {"image_id": image_id, "file_name": f"{name}.png"}
        if "panoptic_seg" in prediction:
            path = self.folder / "panoptic" / f"{name}.png"
            segments = save_panoptic(path, *prediction["panoptic_seg"], self._metadata)
            entry = image, annotation | {"segments_info": segments}
            self._found.setdefault("panoptic", []).append(entry)
        if "sem_seg" in prediction:
            save_semantic(self.folder / "semantic" / f"{name}.png", prediction["sem_seg"])
            self._found.setdefault("semantic", []).append((image, annotation))
        if "instances" in prediction:
            found = instance_results(prediction["instances"], image_id, self._metadata)
            self._found.setdefault("instances", []).extend(found)

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._images:
            return
        write_json(self.folder / "images.json", self._images)
        for kind, found in self._found.items():
            if kind == "instances":
                write_json(self.folder / "instances.json", found)
            else:
                write_result(self.folder, kind, found, self._metadata)


def write_result(
    folder: str | Path, kind: str, entries: Iterable[tuple[Json, Json]], metadata: Metadata
) -> None:
    """Write `panoptic.json` or `semantic.json`.

    Args:
        kind: panoptic or semantic.
        entries: of each image its `image_entry` and its annotation.
    """
    entries = list(entries)
    content = {
        "images": [image for image, _ in entries],
        "annotations": [annotation for _, annotation in entries],
        "categories": result_categories(metadata),
    }
    write_json(Path(folder, f"{kind}.json"), content)


def find_image_ids(files: Sequence[str | Path], source: str) -> list[ImageId]:
    """The ids of images in the user's own data set.

    Args:
        files: of the images.
        source: a JSON in COCO's form, among whose `images` each file is found by its name and, as
            far as the JSON has them, its folders; or "names": the ids are the files' names without
            suffix, as numbers if all are numbers, as COCO's own are.

    Raises:
        UserError: the JSON lacks a file, or two files have one id.
    """
    if source == "names":
        ids: list[ImageId] = [Path(file).stem for file in files]
        if all(str(id_).isdecimal() for id_ in ids):
            ids = [int(id_) for id_ in ids]
    else:
        images = entries(read_json(source), "images", source, ("id", "file_name"))
        known = {str(image["file_name"]): as_id(image["id"], f"{source}: id") for image in images}
        ids = [by_end_of_path(known, file) for file in files]
    first: dict[ImageId, str | Path] = {}
    for id_, file in zip(ids, files, strict=True):
        if id_ is None:
            raise UserError(
                f"{source} has no image with the file_name of {file}, and so no id for it. "
                "Give the images of that JSON alone."
            )
        if first.setdefault(id_, file) != file:
            raise UserError(f"{file} has the image id {id_!r}, like {first[id_]} ({source}).")
    return ids


def by_end_of_path(known: Mapping[str, Value], path: str | Path) -> Value | None:
    """What is known by a path or, without some of its folders, by its end; the longest decides."""
    parts = Path(path).parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((known[end] for end in ends if end in known), None)


def relative_names(files: Sequence[str | Path], root: str | Path | None = None) -> list[str]:
    """The paths of files below a folder, so that no two are equal where names are.

    Args:
        files: whose names are to be kept.
        root: the folder. None, or one that does not hold them all: the deepest that does.
    """
    paths = [os.path.abspath(file) for file in files]
    names = [os.path.relpath(path, root or os.path.sep) for path in paths]
    if root is None or any(name.startswith(os.pardir) for name in names):
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, root) for path in paths]
    return names


def save_panoptic(
    path: str | Path,
    panoptic_map: Tensor | np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    metadata: Metadata,
) -> list[Json]:
    """Write a panoptic map in COCO's format.

    Args:
        path: of the PNG.
        panoptic_map: segment ids, integer (H, W), in [0, 2^24); 0: no segment.
        segments_info: dictionaries with `id` and `category_id` (contiguous).
        metadata: Detectron2's `Metadata`.

    Returns:
        The segments for the JSON: id, category_id (the data set's), area in pixels, bbox
        (left, top, width, height) and iscrowd. Segments without a pixel are left out.

    Raises:
        UserError: a segment id that is no colour.
    """
    ids = np.asarray(panoptic_map.cpu() if isinstance(panoptic_map, Tensor) else panoptic_map)
    if (wrong := ids[(ids < 0) | (ids >= 2**24)]).size:
        raise UserError(
            f"{path} is not written: the segment ids {listed(np.unique(wrong))} are no colours, "
            "R + 256 G + 65536 B. Number the segments of each image from 1."
        )
    write_image(path, encode_ids(ids))
    dataset_ids = dataset_category_ids(metadata)
    return [
        {
            "id": int(info["id"]),
            "category_id": dataset_ids.get(info["category_id"], info["category_id"]),
            **shape_info(mask),
            "iscrowd": 0,
        }
        for info in segments_info
        if (mask := ids == info["id"]).any()
    ]


def save_semantic(path: str | Path, sem_seg: Tensor | np.ndarray) -> None:
    """Write a semantic segmentation as a PNG of contiguous class ids.

    Args:
        path: of the PNG.
        sem_seg: scores (K, H, W), of which the largest counts, or class ids, integer (H, W).
    """
    classes = sem_seg.argmax(0) if sem_seg.ndim == 3 else sem_seg
    classes = np.asarray(classes.cpu() if isinstance(classes, Tensor) else classes)
    write_image(path, classes.astype(np.uint8 if classes.max(initial=0) < 256 else np.uint16))


def instance_results(instances: Instances, image_id: ImageId, metadata: Metadata) -> list[Json]:
    """Instances as COCO's instance results.

    Args:
        instances: with `pred_boxes`, `pred_masks`, `pred_classes` (contiguous) and `scores`.
        image_id: of the image.
        metadata: Detectron2's `Metadata`.
    """
    dataset_ids = dataset_category_ids(metadata)
    results = instances_to_coco_json(instances.to("cpu"), image_id)
    for result in results:
        result["category_id"] = dataset_ids.get(result["category_id"], result["category_id"])
    return results


def result_categories(metadata: Metadata) -> list[Json]:
    """The classes as COCO's tools want them: each with `isthing`, `color`, `supercategory` and,
    besides, its `contiguous_id`."""
    return [
        {"isthing": 0, "supercategory": category["name"], **category, "contiguous_id": index}
        for index, category in enumerate(categories_of(metadata))
    ]
