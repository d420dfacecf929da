"""The classes of a data set of label maps: names, values and colours, and what is ignored."""

from collections.abc import Sequence
from itertools import count, islice
from typing import Any

from mask_former.data.classes import is_rgb
from mask_former.data.datasets.class_file import Classes
from mask_former.data.label_encoding import LabelEncoding, Rgb
from mask_former.errors import UserError, check_choice

ENCODINGS = ("auto", "values", "colors", "binary")


def semantic_metadata(
    classes: Classes,
    ignore: Sequence[Any] = (),
    encoding: str = "auto",
    ignore_label: int | None = None,
) -> dict[str, Any]:
    """The metadata of a data set of label maps.

    Args:
        classes: also those that are ignored.
        ignore: values, colours and names of classes.
        encoding: one of `ENCODINGS`, see `custom.py`.
        ignore_label: the label that ignored pixels get. None: 255, or with more classes 65535.

    Returns:
        `stuff_classes`, `stuff_colors` (if known), `ignore_label`, `label_encoding` and, where
        the values are not contiguous, `stuff_dataset_id_to_contiguous_id`.

    Raises:
        UserError: something contradicts something else; names the keys of DATASETS.CUSTOM.
    """
    names = _check_names(classes.names)
    check_choice("ENCODING", encoding, ENCODINGS)
    for key, given in (("COLORS", classes.colors), ("LABEL_VALUES", classes.values)):
        if given and len(given) != len(names):
            raise UserError(
                f"{key} has {len(given)} entries, but there are {len(names)} classes, "
                f"{', '.join(names)}: give one for each, in their order."
            )
    colors = [as_color(color, "COLORS") for color in classes.colors]
    ignored_names, ignored_values, ignored_colors = _parts(ignore, names)
    kept = [name for name in names if name not in ignored_names]
    if not kept:
        raise UserError(f"IGNORE is {list(ignore)!r}, which leaves no class.")
    if ignore_label is None:
        ignore_label = 255 if len(kept) <= 255 else 65535
    label = {name: kept.index(name) if name in kept else ignore_label for name in names}

    name_of_value = _name_of_value(names, classes.values, encoding, ignored_values)
    of_values = {value: label[name] for value, name in name_of_value.items()}
    of_values |= dict.fromkeys(ignored_values, ignore_label)
    of_values.setdefault(ignore_label, ignore_label)
    of_colors: dict[Rgb, int] = {}
    if encoding in ("auto", "colors"):
        of_colors = {color: label[names[i]] for i, color in enumerate(colors)}
        _check_colors(colors, names, ignored_colors, encoding)
        if colors:
            of_colors |= dict.fromkeys(ignored_colors, ignore_label)
    metadata: dict[str, Any] = {
        "stuff_classes": kept,
        "ignore_label": ignore_label,
        "label_encoding": LabelEncoding(
            "values" if encoding == "binary" else encoding, of_values, of_colors
        ),
    }
    if colors:
        metadata["stuff_colors"] = [list(colors[names.index(name)]) for name in kept]
    ids = {value: label[name] for value, name in name_of_value.items() if name in kept}
    if encoding in ("auto", "values") and any(value != i for value, i in ids.items()):
        metadata["stuff_dataset_id_to_contiguous_id"] = ids
    return metadata


def _check_names(names: Sequence[Any]) -> list[str]:
    if not names:
        raise UserError("CLASSES is empty: name the classes there, or in a file, CLASS_FILE.")
    for name in names:
        if not isinstance(name, str) or not name:
            raise UserError(
                f"CLASSES has the name {name!r}, but names are text: put it between quotes."
            )
        if list(names).count(name) > 1:
            raise UserError(f"CLASSES has the name {name!r} twice: metrics are told apart by name.")
    return list(names)


def as_color(color: Any, key: str) -> Rgb:
    """RGB as a tuple; UserError if it is none."""
    if not is_rgb(color):
        raise UserError(f"{key} has {color!r}, but a colour is [red, green, blue] in 0..255.")
    return tuple(color)


def _parts(ignore: Sequence[Any], names: Sequence[str]) -> tuple[list[str], list[int], list[Rgb]]:
    """The names, values and colours of IGNORE."""
    ignored_names, values, colors = [], [], []
    for item in ignore:
        if isinstance(item, str):
            if item not in names:
                raise UserError(
                    f"IGNORE has {item!r}, but the classes are {', '.join(names)}. Name one of "
                    "these, or a value or colour of the label maps."
                )
            ignored_names.append(item)
        elif type(item) is int:
            values.append(item)
        else:
            colors.append(as_color(item, "IGNORE"))
    return ignored_names, values, colors


def _name_of_value(
    names: Sequence[str], values: Sequence[Any], encoding: str, ignored: Sequence[int]
) -> dict[int, str]:
    if encoding == "binary":
        if len(names) != 2 or values:
            raise UserError(
                f"ENCODING is binary, which needs two CLASSES, of the pixels of 0 and of the "
                f"others, and no LABEL_VALUES; CLASSES is {list(names)!r}. One of them can be "
                "ignored: IGNORE."
            )
        return {0: names[0], 1: names[1], 255: names[1]}
    if not values:
        values = list(islice((v for v in count() if v not in ignored), len(names)))
    found: dict[int, str] = {}
    for value, name in zip(values, names, strict=True):
        if type(value) is not int or not 0 <= value < 2**16:
            raise UserError(f"LABEL_VALUES has {value!r}, but must be whole numbers in 0..65535.")
        if value in found or value in ignored:
            other = f"class {found[value]!r}" if value in found else "IGNORE"
            raise UserError(f"The value {value} is that of class {name!r} and of {other}.")
        found[value] = name
    return found


def _check_colors(
    colors: Sequence[Rgb], names: Sequence[str], ignored: Sequence[Rgb], encoding: str
) -> None:
    if encoding == "colors" and not colors:
        raise UserError(
            "ENCODING is colors, but no colours are known: give COLORS, one for each class, or a "
            "CLASS_FILE that has them."
        )
    for number, color in enumerate(colors):
        others = [*colors[:number], *ignored]
        if color in others:
            raise UserError(
                f"COLORS gives class {names[number]!r} {list(color)}, which is that of another "
                "class or of IGNORE. Where colours are only for drawing, set ENCODING to values."
            )
