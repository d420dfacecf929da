"""COCO's two annotation files, of instances and panoptic: read, checked and completed, in memory.

A file is read once a process, and what comes of it is shared by training and evaluation. What is
refused and what is repaired is listed in docs/CHECKS.md.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mask_former.data.geometry import (
    FRACTIONS,
    MARGIN,
    Masked,
    check_masks,
    check_size,
    mask_area,
    mask_box,
)
from mask_former.data.json_files import (
    Json,
    as_flag,
    as_id,
    as_text,
    described,
    entries,
    once_per_file,
    read_json,
)
from mask_former.errors import UserError, listed

# Segment ids are colours of 24 bits, and black is no segment.
_MAX_SEGMENT_ID = 2**24 - 1


class CheckedAnnotations(list):
    """The instance annotations of a record, whose masks have been checked when they were read."""


@dataclass
class CocoFile:
    """The checked content of an annotation file.

    Attributes:
        path: of the file.
        images: by id, in the order of the file.
        categories: in the order of the file.
        annotations: in the order of the file. Flags are 0 or 1.
        remarks: how many annotations are unusual, by what is unusual.
    """

    path: str
    images: dict[Hashable, Json]
    categories: list[Json]
    annotations: list[Json]
    remarks: Counter = field(default_factory=Counter)

    def size(self, annotation: Json) -> tuple[int, int]:
        """Height and width of an annotation's image."""
        image = self.images[annotation["image_id"]]
        return image["height"], image["width"]

    def summary(self) -> list[str]:
        """Remarks on what is unusual, in one line; none if nothing is."""
        remarks = [f"{count} {what}" for what, count in self.remarks.items() if count]
        return [f"{self.path}: {'; '.join(remarks)}."] if remarks else []

    def by_image(self) -> dict[Hashable, list[Json]]:
        """The annotations of each image, also of those without any."""
        result: dict[Hashable, list[Json]] = {image_id: [] for image_id in self.images}
        for annotation in self.annotations:
            result[annotation["image_id"]].append(annotation)
        return result


@once_per_file
def read_instances(path: str) -> CocoFile:
    """Read an instance annotation.

    Missing or null `iscrowd`, `area` and `bbox` become 0, and what the mask says.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: no JSON, or content that contradicts COCO's format or itself.
    """
    file = _read(path, ("image_id", "category_id"))
    categories = {category["id"] for category in file.categories}
    ids: dict[Hashable, None] = {}
    masked = []
    for index, annotation in enumerate(file.annotations):
        place = partial(_place, path, annotation, index)
        if "id" in annotation:
            annotation["id"] = _new(ids, annotation["id"], f"{path}: the id of annotation")
        _check_references(annotation, place, file.images, categories)
        _check_numbers(annotation, place, file.size(annotation))
        masked.append(Masked(annotation, file.size(annotation), place))
    _check_types(path, "annotations", ids)
    file.remarks.update(check_masks(iter(masked)))
    polygons = [item for item in masked if isinstance(item.annotation["segmentation"], list)]
    if polygons and file.remarks[FRACTIONS] == len(polygons):
        raise UserError(
            f"{polygons[0].place()}, like all others, has coordinates in 0..1 only, fractions of "
            "the size of its image. COCO's format has pixels: multiply x by the width and y by "
            "the height."
        )
    for annotation, size, _ in masked:
        _complete(annotation, size, file.remarks)
    if masked and file.remarks["are crowds"] == len(masked):
        raise UserError(
            f"{path}: all {len(masked)} annotations are crowds (iscrowd 1), of which nothing is "
            "learned or evaluated. Some tools write iscrowd 1 for every run-length encoding: set "
            "it to 0."
        )
    return file


def instance_categories(path: str) -> list[Json]:
    """The categories of an instance annotation, checked, sorted by id. Raises as
    `read_instances`."""
    return sorted(check_categories(read_json(path), path), key=lambda category: category["id"])


@once_per_file
def read_panoptic(path: str) -> CocoFile:
    """Read a panoptic annotation, whose `segments_info` are checked, too.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: no JSON, or content that contradicts COCO's format or itself.
    """
    file = _read(path, ("image_id", "file_name", "segments_info"), ("isthing",))
    if not file.annotations:
        raise UserError(f"{path} holds no annotations.")
    stuff = {category["id"]: not category["isthing"] for category in file.categories}
    image_ids: dict[Hashable, None] = {}
    names: dict[str, Hashable] = {}
    for index, annotation in enumerate(file.annotations):
        _check_image(annotation, partial(_place, path, annotation, index), file.images)
        place = f"{path}: the annotation of image {annotation['image_id']!r}"
        _new(image_ids, annotation["image_id"], f"{path}: the image of annotation")
        name = as_text(annotation["file_name"], f"{place}: its file_name")
        if name in names:
            raise UserError(
                f"{place} has the file_name {name!r}, like that of image {names[name]!r}. Each "
                "image needs its own; are there subfolders that the names leave out?"
            )
        names[name] = annotation["image_id"]
        _check_segments(annotation, place, stuff, file.remarks)
    missing = len(file.images) - len(file.annotations)
    file.remarks["images have no annotation, and are left out"] += missing
    return file


def panoptic_categories(path: str) -> list[Json]:
    """The categories of a panoptic annotation, checked, in its order. Raises as
    `read_panoptic`."""
    return check_categories(read_json(path), path, ("isthing",))


def _read(path: str, keys: Sequence[str], category_keys: Sequence[str] = ()) -> CocoFile:
    """The file with checked images and categories, and unchecked annotations."""
    content = read_json(path)
    found = entries(content, "images", path, ("id", "file_name", "height", "width"))
    categories = check_categories(content, path, category_keys)
    annotations = entries(content, "annotations", path, keys)
    images: dict[Hashable, Json] = {}
    names: dict[str, Hashable] = {}
    for image in found:
        ids = image["id"] = _new(images, image["id"], f"{path}: the id of image", image)
        place = f"{path}: image {ids!r}"
        name = as_text(image["file_name"], f"{place}: its file_name")
        if name in names:
            raise UserError(
                f"{place} has the file_name {name!r}, like image {names[name]!r}. Each image needs "
                "its own; are there subfolders that the names leave out?"
            )
        names[name] = ids
        image["height"], image["width"] = check_size(image["height"], image["width"], place)
    _check_types(path, "images", images)
    if not images:
        raise UserError(f"{path} holds no images.")
    return CocoFile(path, images, categories, annotations)


def check_categories(content: Any, path: str, required: Sequence[str] = ()) -> list[Json]:
    """The categories of an annotation: ids and names are unique, `isthing` becomes 0 or 1.

    Args:
        content: of the file.
        path: for error messages.
        required: keys beside `id` and `name`.
    """
    categories = entries(content, "categories", path, ("id", "name", *required))
    if not categories:
        raise UserError(f"{path}: 'categories' is empty.")
    ids: dict[Hashable, str] = {}
    of_name: dict[str, Hashable] = {}
    for category in categories:
        id_ = category["id"] = _new(ids, category["id"], f"{path}: the id of category")
        name = as_text(category["name"], f"{path}: the name of category {id_!r}")
        if name in of_name:
            raise UserError(
                f"{path}: the categories {of_name[name]!r} and {id_!r} both have the name "
                f"{name!r}. Rename one, or give both the same id: metrics are told apart by name."
            )
        of_name[name] = id_
        if "isthing" in category:
            category["isthing"] = as_flag(
                category["isthing"], f"{path}: isthing of category {id_!r}, {name!r},"
            )
    _check_types(path, "categories", ids)
    return categories


def check_same_classes(
    file: CocoFile, contiguous: Mapping[Hashable, int], classes: Sequence[str]
) -> None:
    """Raise UserError unless the categories of a file are those that its data set has.

    Args:
        file: read from the data set.
        contiguous: contiguous id of each category id, by the metadata.
        classes: names by contiguous id. A file may have other names for the same classes, but not
            the name of one for another.
    """
    for category in file.categories:
        id_, name = category["id"], category["name"]
        if id_ not in contiguous:
            raise UserError(
                f"{file.path}: the category {id_!r}, {name!r}, is none of those that its data set "
                f"is registered with, whose ids are {listed(list(contiguous))}."
            )
        own = classes[contiguous[id_]] if contiguous[id_] < len(classes) else name
        if own != name and name in classes:
            raise UserError(
                f"{file.path}: the category {id_!r} is {name!r}, but {own!r} in the metadata that "
                "its data set is registered with. Which id has which name?"
            )


def _new(known: dict[Hashable, Any], value: Any, place: str, content: Any = None) -> Hashable:
    """An id that is not among the `known`, to which it is added."""
    number = f"number {len(known) + 1}"
    id_ = as_id(value, f"{place} {number}")
    if id_ in known:
        raise UserError(f"{place} {number} is {id_!r}, which occurs before: ids are unique.")
    known[id_] = content
    return id_


def _check_types(path: str, what: str, ids: dict[Hashable, Any]) -> None:
    if len({type(id_) for id_ in ids}) > 1:
        text = next(id_ for id_ in ids if isinstance(id_, str))
        raise UserError(
            f"{path}: the ids of {what} are partly numbers, partly text, such as {text!r}. Make "
            "all of them one or the other."
        )


def _place(path: str, annotation: Json, index: int) -> str:
    name = f"annotation {annotation['id']!r}" if "id" in annotation else f"annotations[{index}]"
    return f"{path}: {name}"


def _check_references(
    annotation: Json, place: Callable[[], str], images: dict[Hashable, Json], categories: Any
) -> None:
    _check_image(annotation, place, images)
    _check_category(annotation, place, categories)
    annotation["iscrowd"] = _flag(annotation, "iscrowd", place)
    if _flag(annotation, "ignore", place):
        raise UserError(f"{place()} has 'ignore' 1, which means nothing here: set iscrowd to 1.")


def _check_image(annotation: Json, place: Callable[[], str], images: dict[Hashable, Json]) -> None:
    if type(annotation["image_id"]) is not int:
        annotation["image_id"] = as_id(annotation["image_id"], f"{place()}: its image_id")
    if annotation["image_id"] not in images:
        raise UserError(
            f"{place()} has the image_id {annotation['image_id']!r}, which no image has; an image "
            f"id of this file is {next(iter(images))!r}."
        )


def _check_category(annotation: Json, place: Callable[[], str], categories: Any) -> None:
    if type(annotation["category_id"]) is not int:
        annotation["category_id"] = as_id(annotation["category_id"], f"{place()}: its category_id")
    if annotation["category_id"] not in categories:
        raise UserError(
            f"{place()} has the category_id {annotation['category_id']!r}, which no category has; "
            f"a category id of this file is {next(iter(categories))!r}."
        )


def _flag(annotation: Json, key: str, place: Callable[[], str]) -> int:
    value = annotation.get(key)
    return value if type(value) is int and value in (0, 1) else as_flag(value, f"{place()}: {key}")


def _check_numbers(annotation: Json, place: Callable[[], str], size: tuple[int, int]) -> None:
    """Check `area` and `bbox`, where they are given."""
    area, box = annotation.get("area"), annotation.get("bbox")
    if area is not None and not (_is_number(area) and area >= 0):
        raise UserError(
            f"{place()}: its area is {described(area)}, but must be a number of pixels. Leave it "
            "out to have it computed."
        )
    if box is None:
        return
    sound = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    if sound:
        (x, y, width, height), (rows, columns) = box, size
        near_x = -MARGIN * columns <= x and x + width <= (1 + MARGIN) * columns
        near_y = -MARGIN * rows <= y and y + height <= (1 + MARGIN) * rows
        sound = near_x and near_y and width >= 0 and height >= 0
    if not sound:
        raise UserError(
            f"{place()}: its bbox is {described(box)}, but must be [x, y, width, height] in pixels "
            f"of its image, which is {size[1]} x {size[0]}. Leave it out to have it computed."
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _complete(annotation: Json, size: tuple[int, int], remarks: Counter) -> None:
    """Fill in what is missing, and count it."""
    remarks["are crowds"] += annotation["iscrowd"]
    for key, compute in (("area", mask_area), ("bbox", mask_box)):
        if annotation.get(key) is None:
            remarks[f"have no {key}, which is computed from the mask"] += 1
            annotation[key] = compute(annotation["segmentation"], size)


def _check_segments(
    annotation: Json, place: str, stuff: dict[Hashable, bool], remarks: Counter
) -> None:
    segments = entries(annotation, "segments_info", place, ("id", "category_id"))
    ids: set[int] = set()
    stuff_seen: set[Hashable] = set()
    for segment in segments:
        id_ = segment["id"]
        if type(id_) is float and id_.is_integer():
            id_ = segment["id"] = int(id_)
        if type(id_) is not int or not 0 < id_ <= _MAX_SEGMENT_ID:
            raise UserError(
                f"{place}: the id of a segment is {described(id_)}, but must be a whole number in "
                f"1..{_MAX_SEGMENT_ID}, the colour R + 256 G + 65536 B of its pixels."
            )
        if id_ in ids:
            raise UserError(f"{place} lists the segment {id_} twice.")
        ids.add(id_)
        of_segment = partial("{}, segment {}".format, place, id_)
        _check_category(segment, of_segment, stuff)
        segment["iscrowd"] = _flag(segment, "iscrowd", of_segment)
        remarks["segments are crowds"] += segment["iscrowd"]
        if stuff[segment["category_id"]] and not segment["iscrowd"]:
            if segment["category_id"] in stuff_seen:
                remarks["stuff segments have a class that another of their image has"] += 1
            stuff_seen.add(segment["category_id"])
