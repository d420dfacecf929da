"""COCO's two annotation files, of instances and panoptic: read, checked and completed, in memory.

A file is read once a process, and what comes of it is shared by training and evaluation. What is
refused and what is repaired is listed in docs/CHECKS.md.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mask_former.data.coco_entries import (
    check_box_and_area,
    check_file_name,
    check_reference,
    check_references,
    check_segments,
    check_types,
    checked_categories,
    complete_annotation,
    new_id,
    place_of,
)
from mask_former.data.geometry import FRACTIONS, Masked, check_size, sound_masks
from mask_former.data.json_files import (
    Json,
    entries,
    incomplete,
    once_per_file,
    read_json,
)
from mask_former.errors import UserError, listed, report


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
    of_id = f"{path}: the id of annotation"
    masked = []
    for index, annotation in enumerate(file.annotations):
        place = partial(place_of, path, annotation, index)
        try:
            if "id" in annotation:
                annotation["id"] = new_id(ids, annotation["id"], of_id)
            check_references(annotation, place, file.images, categories)
            size = file.size(annotation)
            check_box_and_area(annotation, place, size)
        except UserError as error:
            report(error)
            continue
        masked.append(Masked(annotation, size, place))
    check_types(path, "annotations", ids)
    masked = sound_masks(masked, file.remarks)
    file.annotations = [item.annotation for item in masked]
    polygons = [item for item in masked if isinstance(item.annotation["segmentation"], list)]
    if polygons and file.remarks[FRACTIONS] == len(polygons):
        raise UserError(
            f"{polygons[0].place()}, like all others, has coordinates in 0..1 only, fractions of "
            "the size of its image. COCO's format has pixels: multiply x by the width and y by "
            "the height."
        )
    for annotation, size, _ in masked:
        complete_annotation(annotation, size, file.remarks)
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
    return sorted(checked_categories(read_json(path), path), key=lambda category: category["id"])


@once_per_file
def read_panoptic(path: str) -> CocoFile:
    """Read a panoptic annotation, whose `segments_info` are checked, too.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: no JSON, or content that contradicts COCO's format or itself.
    """
    file = _read(path, ("image_id", "file_name", "segments_info"))
    if not file.annotations:
        raise UserError(f"{path} holds no annotations.")
    stuff = {category["id"]: not category.get("isthing", True) for category in file.categories}
    image_ids: dict[Hashable, None] = {}
    names: dict[str, Hashable] = {}
    sound = []
    for index, annotation in enumerate(file.annotations):
        try:
            of_index = partial(place_of, path, annotation, index)
            check_reference(annotation, "image", of_index, file.images)
            place = f"{path}: the annotation of image {annotation['image_id']!r}"
            new_id(image_ids, annotation["image_id"], f"{path}: the image of annotation")
            check_file_name(annotation, annotation["image_id"], names, place)
            if check_segments(annotation, place, stuff, file.remarks):
                sound.append(annotation)
        except UserError as error:
            report(error)
    file.annotations = sound
    missing = len(file.images) - len(image_ids)
    file.remarks["images have no annotation, and are left out"] += missing
    return file


def panoptic_categories(path: str) -> list[Json]:
    """The categories of a panoptic annotation, checked, in its order; `isthing` may be missing.
    Raises as `read_panoptic`."""
    return checked_categories(read_json(path), path)


def _read(path: str, keys: Sequence[str]) -> CocoFile:
    """The file with checked images and categories, and unchecked annotations."""
    content = read_json(path)
    found = entries(content, "images", path, ("id",))
    categories = checked_categories(content, path)
    annotations = entries(content, "annotations", path, keys)
    images: dict[Hashable, Json] = {}
    names: dict[str, Hashable] = {}
    wrong: set[Hashable] = set()
    for index, image in enumerate(found):
        try:
            ids = image["id"] = new_id(images, image["id"], f"{path}: the id of image", image)
            wrong.add(ids)
            _check_image_entry(image, index, path, names)
            wrong.remove(ids)
        except UserError as error:
            report(error)
    check_types(path, "images", images)
    if wrong:  # what belongs to them would seem to be wrong, too
        images = {ids: image for ids, image in images.items() if ids not in wrong}
        texts = set(map(str, wrong))
        annotations = [a for a in annotations if str(a["image_id"]) not in texts]
    if not images:
        raise UserError(f"{path} holds no images.")
    return CocoFile(path, images, categories, annotations)


def _check_image_entry(image: Json, index: int, path: str, names: dict[str, Hashable]) -> None:
    """Check the file name and the size of an image, and add its name to the `names` before."""
    keys = ("file_name", "height", "width")
    if not image.keys() >= set(keys):
        raise incomplete(image, keys, f"{path}: images[{index}]")
    place = f"{path}: image {image['id']!r}"
    check_file_name(image, image["id"], names, place)
    image["height"], image["width"] = check_size(image["height"], image["width"], place)


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
