"""The classes that weights were trained on: kept in their file, and compared with those of data.

In a file they are COCO's categories by contiguous id, of plain values. Published weights have none.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from mask_former.errors import UserError

Category = dict[str, Any]
KEY = "classes"
"""Of a checkpoint: where they stand beside the weights."""


def classes_in(checkpoint: Mapping[str, Any]) -> list[Category] | None:
    """The classes of a checkpoint that has been read; None if it has none, or those of another
    program, in another form."""
    classes = checkpoint.get(KEY)
    if isinstance(classes, list) and classes and all(map(_is_category, classes)):
        return classes
    return None


def _is_category(category: Any) -> bool:
    return (
        isinstance(category, dict)
        and type(category.get("id")) in (int, str)
        and type(category.get("name")) is str
        and type(category.get("isthing", 0)) in (int, bool)
    )


def check_trained_on(
    file: str, stored: Sequence[Category] | None, classes: Sequence[Category] | None
) -> None:
    """Raise UserError if weights were trained on other classes than those of the data.

    Each contiguous id must have one name in both and, where both know it, be a thing in both or in
    neither. The ids of the data sets' own files may differ.

    Args:
        file: of the weights.
        stored: its classes; None: they are not known.
        classes: those of the data; None: they are not known.
    """
    if stored is None or classes is None:
        return
    for number, (ours, theirs) in enumerate(zip_longest(stored, classes)):
        if ours is None or theirs is None or ours["name"] != theirs["name"]:
            difference = f"class {number} is {_named(ours)} there and {_named(theirs)} here"
        elif "isthing" in ours and ours["isthing"] != theirs.get("isthing", ours["isthing"]):
            difference = f"{ours['name']!r} is a thing in only one of them (isthing)"
        else:
            continue
        raise UserError(
            f"{file} was trained on other classes than those of the config's data sets: "
            f"{difference}. Where they should be the same, give the data's categories the names "
            "and the order of the training. To train on other classes, start from the file with "
            "MODEL.WEIGHTS_WITHOUT_CLASS_HEAD True."
        )


def _named(category: Category | None) -> str:
    return "missing" if category is None else repr(category["name"])
