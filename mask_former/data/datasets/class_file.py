"""Files that name the classes of label maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mask_former.data.json_files import as_text, described, read_json
from mask_former.errors import UserError


class Classes(NamedTuple):
    """What is known of the classes of label maps, in the order of the classes.

    Attributes:
        names: of the classes.
        colors: RGB in 0..255; empty: unknown.
        values: in the label maps; empty: 0, 1, 2, ... without those that are ignored.
    """

    names: Sequence[str]
    colors: Sequence[Sequence[int]] = ()
    values: Sequence[int] = ()


def read_class_file(path: str | Path) -> Classes:
    """Read a file of classes.

    It is JSON: a list of names, or of objects with `name` and maybe `color` and `id` (the value),
    or an object with such `categories`. Or it is text of a class a line: a name, or as in CVAT's
    labelmap.txt name:red,green,blue:parts:actions; lines that start with # are left out.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it holds something else.
    """
    if str(path).endswith(".json"):
        return _of_json(read_json(path), str(path))
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: {error}") from error
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    parts = [line.split(":") for line in lines]
    names = [part[0].strip() for part in parts]
    colors = [_color_of_text(part[1], path) for part in parts if len(part) > 1 and part[1].strip()]
    if colors and len(colors) < len(names):
        raise UserError(
            f"{path}: {len(colors)} of {len(names)} classes have a colour: all or none."
        )
    return Classes(names, colors)


def _color_of_text(text: str, path: str | Path) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{path}: a colour is 'red,green,blue', not {text!r}.") from error


def _of_json(content: Any, path: str) -> Classes:
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{path} holds {described(content)}, but must be a list of names, or of objects with "
            "'name' and maybe 'color' and 'id'."
        )
    entries = [entry if isinstance(entry, dict) else {"name": entry} for entry in entries]
    names = [as_text(entry.get("name"), f"{path}: the name of a class") for entry in entries]
    colors = [entry["color"] for entry in entries if "color" in entry]
    values = [entry["id"] for entry in entries if "id" in entry]
    for key, found in (("color", colors), ("id", values)):
        if found and len(found) < len(names):
            raise UserError(
                f"{path}: {len(found)} of {len(names)} classes have {key!r}: all or none."
            )
    return Classes(names, colors, values)


def completed(given: Classes, read: Classes, path: str | Path) -> Classes:
    """What a user gives beside a file, and the rest from the file.

    Raises:
        UserError: the names differ.
    """
    if given.names and list(given.names) != list(read.names):
        raise UserError(
            f"CLASSES is {list(given.names)}, but CLASS_FILE {path} has the names "
            f"{list(read.names)}. Give one of the two, or the same names in the same order."
        )
    return Classes(read.names, given.colors or read.colors, given.values or read.values)
