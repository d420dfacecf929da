"""The entries of COCO's annotation files: ids, references, flags and numbers.

Errors name the file and the entry.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

from mask_former.data.geometry import MARGIN, Place, mask_area, mask_box
from mask_former.data.json_files import Json, as_flag, as_id, as_text, described, entries
from mask_former.errors import UserError, report

# Segment ids are colours of 24 bits, and black is no segment.
_MAX_SEGMENT_ID = 2**24 - 1
_NUMBERS = (int, float)  # and no bool


def checked_categories(content: Any, path: str, required: Sequence[str] = ()) -> list[Json]:
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
        id_ = category["id"] = new_id(ids, category["id"], f"{path}: the id of category")
        name = as_text(category["name"], f"{path}: the name of category {id_!r}")
        if name in of_name:
            raise UserError(
                f"{path}: the categories {of_name[name]!r} and {id_!r} both have the name "
                f"{name!r}. Rename one, or make them one: metrics are told apart by name."
            )
        of_name[name] = id_
        if "isthing" in category:
            category["isthing"] = as_flag(
                category["isthing"], f"{path}: isthing of category {id_!r}, {name!r},"
            )
    check_types(path, "categories", ids)
    return categories


def new_id(known: dict[Hashable, Any], value: Any, place: str, content: Any = None) -> Hashable:
    """An id that is not among the `known`, to which it is added."""
    id_ = value if type(value) is int else as_id(value, f"{place} number {len(known) + 1}")
    if id_ in known:
        raise UserError(
            f"{place} number {len(known) + 1} is {id_!r}, which occurs before: ids are unique."
        )
    known[id_] = content
    return id_


def check_file_name(entry: Json, id_: Hashable, names: dict[str, Hashable], place: str) -> None:
    """Raise UserError unless an entry has a file name of its own.

    Args:
        entry: with `file_name`.
        id_: of its image.
        names: the image's id by each file name before, to which this one is added.
        place: what the entry is called in an error message.
    """
    name = as_text(entry["file_name"], f"{place}: its file_name")
    if name in names:
        raise UserError(
            f"{place} has the file_name {name!r}, like image {names[name]!r}. Each image needs "
            "its own; are there subfolders that the names leave out?"
        )
    names[name] = id_


def check_types(path: str, what: str, ids: dict[Hashable, Any]) -> None:
    """Raise UserError if ids are partly numbers and partly texts, which have no order."""
    if len({type(id_) for id_ in ids}) > 1:
        text = next(id_ for id_ in ids if isinstance(id_, str))
        raise UserError(
            f"{path}: the ids of {what} are partly numbers, partly text, such as {text!r}. Make "
            "all of them one or the other."
        )


def place_of(path: str, annotation: Json, index: int) -> str:
    """What an annotation, at an index of its list, is called in an error message."""
    name = f"annotation {annotation['id']!r}" if "id" in annotation else f"annotations[{index}]"
    return f"{path}: {name}"


def check_references(
    annotation: Json, place: Place, images: dict[Hashable, Json], categories: Any
) -> None:
    """Check image and category of an instance; `iscrowd` becomes 0 or 1."""
    check_reference(annotation, "image", place, images)
    check_reference(annotation, "category", place, categories)
    annotation["iscrowd"] = _flag(annotation, "iscrowd", place)
    if _flag(annotation, "ignore", place):
        raise UserError(f"{place()} has 'ignore' 1, which means nothing here: set iscrowd to 1.")


def check_reference(annotation: Json, what: str, place: Place, known: Any) -> None:
    """Raise UserError unless the id of an annotation's image or category is a known one."""
    key = f"{what}_id"
    if type(annotation[key]) is not int:
        annotation[key] = as_id(annotation[key], f"{place()}: its {key}")
    if annotation[key] not in known:
        article = "an" if what == "image" else "a"
        raise UserError(
            f"{place()} has the {key} {annotation[key]!r}, which no {what} has; {article} {what} "
            f"id of this file is {next(iter(known))!r}."
        )


def _flag(annotation: Json, key: str, place: Place) -> int:
    value = annotation.get(key, 0)
    return value if type(value) is int and value in (0, 1) else as_flag(value, f"{place()}: {key}")


def check_box_and_area(annotation: Json, place: Place, size: tuple[int, int]) -> None:
    """Check `area` and `bbox`, where they are given."""
    area, box = annotation.get("area"), annotation.get("bbox")
    # Of what reaches as far as coordinates may.
    largest = (1 + 2 * MARGIN) ** 2 * size[0] * size[1]
    if area is not None and not (type(area) in _NUMBERS and 0 <= area <= largest):
        raise UserError(
            f"{place()}: its area is {described(area)}, but must be a number of pixels of its "
            f"image, which is {size[1]} x {size[0]}. Leave it out to have it computed."
        )
    if box is None:
        return
    sound = isinstance(box, list) and len(box) == 4
    if not (sound and _is_near(box[0], box[2], size[1]) and _is_near(box[1], box[3], size[0])):
        raise UserError(
            f"{place()}: its bbox is {described(box)}, but must be [x, y, width, height] in pixels "
            f"of its image, which is {size[1]} x {size[0]}. Leave it out to have it computed."
        )


def _is_near(start: Any, extent: Any, side: int) -> bool:
    """Whether `extent` pixels from `start` on are near an image's side. NaN and infinity are not,
    and whole numbers of hundreds of digits are never added."""
    low, high = -MARGIN * side, (1 + MARGIN) * side
    return (
        type(start) in _NUMBERS
        and type(extent) in _NUMBERS
        and low <= start <= high
        and 0 <= extent <= high - low
        and start + extent <= high
    )


def complete_annotation(annotation: Json, size: tuple[int, int], remarks: Counter) -> None:
    """Fill in what is missing, and count it."""
    remarks["are crowds"] += annotation["iscrowd"]
    for key, compute in (("area", mask_area), ("bbox", mask_box)):
        if annotation.get(key) is None:
            remarks[f"have no {key}, which is computed from the mask"] += 1
            annotation[key] = compute(annotation["segmentation"], size)


def check_segments(
    annotation: Json, place: str, stuff: dict[Hashable, bool], remarks: Counter
) -> bool:
    """Check the segments of a panoptic annotation, and count what is unusual.

    Args:
        annotation: of one image.
        place: what it is called in an error message.
        stuff: whether a category is stuff, by id.
        remarks: is counted up.

    Returns:
        whether all are right. What is wrong is reported, which raises by default.
    """
    segments = entries(annotation, "segments_info", place, ("id", "category_id"))
    ids: set[int] = set()
    stuff_seen: set[Hashable] = set()
    all_right = len(segments) == len(annotation["segments_info"])
    for segment in segments:
        try:
            _check_segment(segment, place, stuff, ids)
        except UserError as error:
            report(error)
            all_right = False
            continue
        remarks["segments are crowds"] += segment["iscrowd"]
        if stuff[segment["category_id"]] and not segment["iscrowd"]:
            if segment["category_id"] in stuff_seen:
                remarks["stuff segments have a class that another of their image has"] += 1
            stuff_seen.add(segment["category_id"])
    return all_right


def _check_segment(segment: Json, place: str, stuff: dict[Hashable, bool], ids: set[int]) -> None:
    """Check one segment, and add its id to those before, `ids`."""
    id_ = segment["id"] = segment_id(segment["id"], place)
    if id_ in ids:
        raise UserError(f"{place} lists the segment {id_} twice.")
    ids.add(id_)
    of_segment = partial("{}, segment {}".format, place, id_)
    check_reference(segment, "category", of_segment, stuff)
    segment["iscrowd"] = _flag(segment, "iscrowd", of_segment)


def segment_id(value: Any, place: str) -> int:
    """The id of a segment of a panoptic PNG; UserError if it is none.

    Args:
        value: what a JSON says.
        place: what the list of segments is called in an error message.
    """
    id_ = int(value) if type(value) is float and value.is_integer() else value
    if type(id_) is not int or not 0 < id_ <= _MAX_SEGMENT_ID:
        raise UserError(
            f"{place}: the id of a segment is {described(id_)}, but must be a whole number in "
            f"1..{_MAX_SEGMENT_ID}, the colour R + 256 G + 65536 B of its pixels."
        )
    return id_
