"""Reading predictions that have been saved: what `results.py` writes, and what other programs write
in the same formats.
"""

import logging
import sys
from collections.abc import Container, Hashable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata

from mask_former.data.classes import class_names, contiguous_ids
from mask_former.data.coco_entries import check_box_and_area, segment_id
from mask_former.data.geometry import Masked, check_masks, mask_box, run_lengths_of
from mask_former.data.json_files import Json, as_id, as_text, described, entries, read_json
from mask_former.data.reading import read_ids, read_labels
from mask_former.data.records import Record
from mask_former.errors import UserError, listed
from mask_former.evaluation.results import by_end_of_path

logger = logging.getLogger(__name__)

# A model's own list has instances with lower scores.
CUT = 0.3


class SavedPanoptic:
    """A panoptic JSON and its PNG, as `output["panoptic_seg"]` of each record.

    Args:
        file: the JSON; the PNG lie in the folder of its name.
        metadata: Detectron2's `Metadata` of the ground truth.
    """

    def __init__(self, file: Path, metadata: Metadata) -> None:
        self.file = file
        self._root = file.with_suffix("")
        content = read_json(str(file))
        self._contiguous = contiguous_ids(metadata)
        _check_categories(content, file, metadata, self._contiguous)
        self._names = _image_names(content, file)
        keys = ("image_id", "file_name", "segments_info")
        self._annotations: dict[Hashable, Json] = {}
        for annotation in entries(content, "annotations", str(file), keys):
            image_id = as_id(annotation["image_id"], f"{file}: an image_id")
            if image_id in self._annotations:
                raise UserError(f"{file} has two predictions for the image {image_id!r}.")
            self._annotations[image_id] = annotation

    def keys(self) -> Iterable[Hashable]:
        """The ids of the images."""
        return self._annotations.keys()

    def unused(self, records: Iterable[Record]) -> set[Hashable]:
        """The predictions for none of the records."""
        return self._annotations.keys() - {record["image_id"] for record in records}

    def __contains__(self, record: Record) -> bool:
        return record["image_id"] in self._annotations

    def __getitem__(self, record: Record) -> dict[str, Any]:
        _check_image_name(record, self._names, self.file)
        annotation = self._annotations[record["image_id"]]
        place = f"{self.file}: image {record['image_id']!r}"
        segments = []
        for segment in entries(annotation, "segments_info", place, ("id", "category_id")):
            id_, known = segment_id(segment["id"], place), segment["category_id"]
            category = _own_category(known, self._contiguous, f"{place}, segment {id_}")
            segments.append({"id": id_, "category_id": category})
        name = as_text(annotation["file_name"], f"{place}: its file_name")
        return {"panoptic_seg": (torch.from_numpy(read_ids(self._root / name)), segments)}


class SavedSemantic:
    """Label maps, as `output["sem_seg"]` of each record, found by the names of its files.

    Args:
        file: `semantic.json`, whose PNG lie in the folder `semantic`; or a folder of PNG.
        metadata: Detectron2's `Metadata` of the ground truth.
    """

    def __init__(self, file: Path, metadata: Metadata) -> None:
        self.file = file
        if file.is_dir():
            found = sorted(file.rglob("*.png"))
            names = {_without_suffix(path.relative_to(file)): path for path in found}
        else:
            content = read_json(str(file))
            numbers = {index: index for index in range(len(class_names(metadata)))}
            _check_categories(content, file, metadata, numbers, "contiguous_id")
            images = _image_names(content, file)
            root = file.with_suffix("")
            names = {
                _without_suffix(images.get(entry["image_id"], entry["file_name"])): root
                / as_text(entry["file_name"], f"{file}: a file_name")
                for entry in entries(content, "annotations", str(file), ("image_id", "file_name"))
            }
        stems = {Path(name).name: path for name, path in names.items()}
        # Without their folders, where that is enough to tell them apart.
        self._files = stems if len(stems) == len(names) else names
        self._used: dict[Path, str] = {}

    def keys(self) -> Iterable[str]:
        """The names of the predictions."""
        return self._files.keys()

    def unused(self, records: Iterable[Record]) -> set[Path]:
        """The predictions for none of the records."""
        return set(self._files.values()) - {self._file(record) for record in records}

    def _file(self, record: Record) -> Path | None:
        return by_end_of_path(self._files, _without_suffix(record["file_name"]))

    def __contains__(self, record: Record) -> bool:
        return self._file(record) is not None

    def __getitem__(self, record: Record) -> dict[str, Any]:
        file = self._file(record)
        first = self._used.setdefault(file, record["file_name"])
        if first != record["file_name"]:
            raise UserError(
                f"{file} is a prediction for {first}, and for {record['file_name']}: of images of "
                "one name, save results in folders as the images are."
            )
        labels = read_labels(file)
        return {"sem_seg": torch.from_numpy(labels.astype(np.int32))}


def read_instance_results(
    file: Path, images: Mapping[Hashable, Json], categories: Container[Hashable]
) -> dict[Hashable, list[Json]]:
    """Instances in COCO's result format, by image; masks become run lengths.

    Those of images that the ground truth lacks are left out, and their number is logged.

    Args:
        file: a JSON list.
        images: of the ground truth, by id.
        categories: ids of the ground truth's categories.

    Raises:
        UserError: the ground truth lacks all images, or a category; an instance without a sound
            mask, or whose score or box is none.
    """
    beside = file.with_name("images.json")
    if beside.is_file():
        names = _image_names({"images": read_json(str(beside))}, beside)
        for image_id, image in images.items():
            _check_image_name({**image, "image_id": image_id}, names, beside)
    found: dict[Hashable, list[Json]] = {image_id: [] for image_id in images}
    others: list[Hashable] = []
    content = {"results": read_json(str(file))}
    keys = ("image_id", "category_id", "score", "segmentation")
    for index, result in enumerate(entries(content, "results", str(file), keys)):
        place = f"{file}: result {index}"
        ids = {key: as_id(result[key], f"{place}: its {key}") for key in keys[:2]}
        if ids["category_id"] not in categories:
            raise UserError(
                f"{place} has the category_id {ids['category_id']!r}, which the ground truth lacks."
            )
        if ids["image_id"] not in images:
            others.append(ids["image_id"])
            continue
        value = result["score"]
        # NaN is refused, too, and so are whole numbers of hundreds of digits.
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise UserError(f"{place}: its score is {described(value)}, but must be a number.")
        image = images[ids["image_id"]]
        size = image["height"], image["width"]
        box = result.get("bbox")
        check_box_and_area({"bbox": box}, partial(str, place), size)
        masked = {"segmentation": result["segmentation"]}
        check_masks(iter([Masked(masked, size, partial(str, place))]))
        rle = run_lengths_of(masked["segmentation"], size)
        box = mask_box(rle, size) if box is None else box
        instance = {**ids, "score": value, "segmentation": rle, "bbox": box}
        found[ids["image_id"]].append(instance)
    if others and not any(found.values()):
        raise UserError(
            f"{file}: no result is of an image of the ground truth, which lacks the image_ids "
            f"{listed(sorted(set(others), key=str), 3)}. (The demo numbers images, unless "
            "--image-ids says which ids they have.)"
        )
    if others:
        logger.warning(
            "Not scored: %d results, of %d images that the ground truth lacks.",
            len(others),
            len(set(others)),
        )
    least = min((x["score"] for instances in found.values() for x in instances), default=0)
    if least >= CUT:
        logger.warning(
            "No instance in %s has a score below %.2f: if less certain ones were left out, AP is "
            "too low. The demo saves them with --confidence-threshold 0.",
            file,
            least,
        )
    return found


def _own_category(id_: Any, contiguous: Mapping[Hashable, int], place: str) -> int:
    """The contiguous id of a category id of the ground truth."""
    if isinstance(id_, int | str) and id_ in contiguous:
        return contiguous[id_]
    raise UserError(
        f"{place} has the category_id {described(id_)}, which the ground truth does not have; its "
        f"ids are {listed(list(contiguous), 5)}."
    )


def _check_categories(
    content: Any,
    file: Path,
    metadata: Metadata,
    contiguous: Mapping[Hashable, int],
    key: str = "id",
) -> None:
    """Raise UserError if the categories that results name have other names in the ground truth.

    Args:
        content: of the JSON; it may name none.
        contiguous: the contiguous id of each `category[key]`.
    """
    names = class_names(metadata)
    if not isinstance(content, dict) or "categories" not in content:
        return
    for category in entries(content, "categories", str(file), ("name",)):
        if key in category:
            index = _own_category(
                category[key], contiguous, f"{file}: category {category['name']!r}"
            )
            if names[index] != category["name"]:
                raise UserError(
                    f"{file}: the category {category[key]!r} is {category['name']!r}, but in the "
                    f"ground truth {names[index]!r}. Are the results those of another data set?"
                )


def _image_names(content: Any, file: Path) -> dict[Hashable, str]:
    """The file of each image id; empty if the JSON does not say."""
    if not isinstance(content, dict) or "images" not in content:
        return {}
    images = entries(content, "images", str(file), ("id", "file_name"))
    return {as_id(image["id"], f"{file}: an id"): str(image["file_name"]) for image in images}


def _check_image_name(record: Record, names: Mapping[Hashable, str], file: Path) -> None:
    """Raise UserError if the image of an id is another file in the results than in the data set."""
    theirs = names.get(record["image_id"], record["file_name"])
    if Path(theirs).stem != Path(record["file_name"]).stem:
        raise UserError(
            f"{file}: the image {record['image_id']!r} is {theirs}, but {record['file_name']} in "
            "the ground truth. Save the results under the ids of the data set: the demo's "
            "--image-ids takes them from its JSON."
        )


def _without_suffix(name: str | Path) -> str:
    return Path(name).with_suffix("").as_posix()
