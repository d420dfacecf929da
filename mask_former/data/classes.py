"""The classes of a data set, as Detectron2's metadata name them, and as COCO's categories.

COCO's form is what travels with weights and results: a list of plain dictionaries, whose positions
are the contiguous ids.
"""

import colorsys
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from detectron2.data import Metadata

Category = dict[str, Any]
"""`id` (the data set's own) and `name` of a class and, where they are known, `isthing` (0 or 1),
`color` (RGB, 0..255) and `supercategory`."""

# Successive multiples of the golden ratio spread evenly over the hue circle, however many there
# are, and neighbours lie far apart.
GOLDEN_RATIO = 0.61803398875


def class_names(metadata: Metadata) -> Sequence[str]:
    """Names by contiguous id: of all classes, or of the things where there are no others."""
    return metadata.get("stuff_classes") or metadata.get("thing_classes") or []


def ignored_label(metadata: Metadata) -> int:
    """The label of pixels without a class: the data set's own or, where it names none, one that is
    no class: 255, with more than 255 classes 65535."""
    return metadata.get("ignore_label", 255 if len(class_names(metadata)) <= 255 else 65535)


def contiguous_ids(metadata: Metadata | Mapping[str, Any]) -> dict[Hashable, int]:
    """Contiguous id of each category id of the data set, of stuff and of things.

    Empty where the data set's own ids are contiguous already.
    """
    return {
        **metadata.get("stuff_dataset_id_to_contiguous_id", {}),
        **metadata.get("thing_dataset_id_to_contiguous_id", {}),
    }


def dataset_category_ids(metadata: Metadata) -> dict[int, Hashable]:
    """The data set's own id of each contiguous id; empty where they are the same."""
    return {contiguous: own for own, contiguous in contiguous_ids(metadata).items()}


def class_color(metadata: Metadata, contiguous_id: int) -> tuple[int, int, int]:
    """RGB, in 0..255: the data set's own or, where it has none, one unlike those of the others."""
    colors = metadata.get("stuff_colors") or metadata.get("thing_colors") or []
    # Colours that do not cover the classes belong to another list of classes.
    if len(colors) >= len(class_names(metadata)) and contiguous_id < len(colors):
        return tuple(int(value) for value in colors[contiguous_id])
    rgb = colorsys.hsv_to_rgb(contiguous_id * GOLDEN_RATIO % 1, 0.65, 0.95)
    return tuple(round(255 * value) for value in rgb)


def categories_of(metadata: Metadata, names: Sequence[str] | None = None) -> list[Category]:
    """The classes as COCO's categories, of plain values.

    Args:
        names: by contiguous id; by default `class_names`.
    """
    names = class_names(metadata) if names is None else names
    own_ids = dataset_category_ids(metadata)
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    groups = metadata.get("supercategories")
    categories = []
    for index, name in enumerate(names):
        category: Category = {"id": own_ids.get(index, index), "name": name}
        if things is not None:
            category["isthing"] = int(index in things.values())
        category["color"] = list(class_color(metadata, index))
        if groups is not None and groups[index]:
            category["supercategory"] = groups[index]
        categories.append(category)
    return categories


def metadata_of(categories: Sequence[Category]) -> dict[str, Any]:
    """Detectron2's metadata of COCO's categories: the inverse of `categories_of`.

    Where all things come before all stuff, `thing_classes` are the things; else they are all
    classes, like `stuff_classes`, so that a contiguous id is an index into either.
    """
    classes = [category["name"] for category in categories]
    metadata: dict[str, Any] = {"stuff_classes": classes}
    ids = [category["id"] for category in categories]
    num_things = 0
    if all("isthing" in category for category in categories):
        is_thing = [bool(category["isthing"]) for category in categories]
        things_first = sorted(is_thing, reverse=True) == is_thing
        num_things = sum(is_thing) if things_first else len(classes)
        metadata |= {
            "thing_classes": classes[:num_things],
            "thing_dataset_id_to_contiguous_id": {k: i for i, k in enumerate(ids) if is_thing[i]},
            "stuff_dataset_id_to_contiguous_id": {
                k: i for i, k in enumerate(ids) if not is_thing[i]
            },
        }
    elif ids != list(range(len(ids))):
        metadata["stuff_dataset_id_to_contiguous_id"] = {k: i for i, k in enumerate(ids)}
    if colors := given_colors(categories):
        metadata["stuff_colors"] = colors
        if "thing_classes" in metadata:
            metadata["thing_colors"] = colors[:num_things]
    return metadata | supercategories(categories)


def given_colors(categories: Sequence[Category]) -> list[list[int]]:
    """RGB of each class, of `color` as a list or as "#rrggbb"; empty unless all have one."""
    colors = [_rgb(category.get("color")) for category in categories]
    return [] if None in colors else colors


def _rgb(color: Any) -> list[int] | None:
    if isinstance(color, str) and re.fullmatch("#[0-9a-fA-F]{6}", color):
        return list(bytes.fromhex(color[1:]))
    return list(color) if is_rgb(color) else None


def is_rgb(color: Any) -> bool:
    """Whether it is a list of three whole numbers in 0..255."""
    sound = isinstance(color, list | tuple) and len(color) == 3
    return sound and all(type(value) is int and 0 <= value <= 255 for value in color)


def supercategories(categories: Sequence[Category]) -> dict[str, list[str]]:
    """The metadata that name the broader group of each class; nothing where there are none."""
    groups = [category.get("supercategory") for category in categories]
    groups = [group if isinstance(group, str) else "" for group in groups]
    return {"supercategories": groups} if any(groups) else {}
