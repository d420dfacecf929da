"""JSON files of annotations: each is parsed once a process, and errors name file and place."""

import gc
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from detectron2.utils.file_io import PathManager

from mask_former.errors import UserError, report

Json = dict[str, Any]
Content = TypeVar("Content")

_GZIP = b"\x1f\x8b"
# What was made of a file, with the file's size and time of change: by maker and path.
_contents: dict[tuple[Callable, str], tuple[Any, Any]] = {}


def once_per_file(make: Callable[[str], Content]) -> Callable[[str | Path], Content]:
    """Decorate what reads a file, so that it does so once, as long as the file stays as it is.

    What it returns is shared by all callers: they must not change it.
    """

    def read(path: str | Path) -> Content:
        key, state = (make, str(path)), _state(str(path))
        if key not in _contents or _contents[key][0] != state:
            _contents.pop(key, None)
            with no_garbage_collection():
                _contents[key] = state, make(str(path))
        return _contents[key][1]

    return read


def forget_files(kept: Iterable[str | Path] = ()) -> None:
    """Free the contents of all files but `kept`. Who needs them again reads them again."""
    kept = set(map(str, kept))
    for key in [key for key in _contents if key[1] not in kept]:
        del _contents[key]


def _state(path: str) -> Any:
    try:
        status = os.stat(PathManager.get_local_path(path))
    except OSError:
        return None  # reading will say what is wrong
    return status.st_size, status.st_mtime_ns


@once_per_file
def read_json(path: str) -> Any:
    """The content of a JSON file in UTF-8, also with a byte-order mark, also compressed by gzip.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not valid JSON, or an object in it has a key twice.
    """
    try:
        with PathManager.open(path, "rb") as file:
            data = file.read()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
        del data  # as large as the text
        return json.loads(text, object_pairs_hook=_object)
    except FileNotFoundError:
        raise  # who knows the data set explains it
    except (ValueError, EOFError, OSError, RecursionError, zlib.error) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> Json:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"an object has the key {twice!r} twice")
    return result


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For what makes millions of objects that stay: looking for garbage among them, again and
    again as they get more, takes longer than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def entries(content: Any, key: str, path: str, required: Sequence[str]) -> list[Json]:
    """`content[key]`, a list of objects that have the `required` keys.

    Raises:
        UserError: it is something else; names `path` and the place. Objects without the keys are
            reported, and left out where that does not raise.
    """
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds {described(content)}, but annotations in COCO's format are an object "
            "with the keys 'images', 'annotations' and 'categories'."
        )
    if key not in content:
        found = ", ".join(map(repr, list(content)[:10])) or "none"
        raise UserError(f"{path} has no {key!r}, which COCO's format needs; its keys are {found}.")
    found = content[key]
    if not isinstance(found, list):
        raise UserError(f"{path}: {key!r} is {described(found)}, but must be a list of objects.")
    needed, kept = set(required), []
    for index, entry in enumerate(found):
        if isinstance(entry, dict) and needed <= entry.keys():
            kept.append(entry)
        else:
            report(incomplete(entry, required, f"{path}: {key}[{index}]"))
    return kept


def incomplete(entry: Any, required: Sequence[str], place: str) -> UserError:
    """The error of an entry that is no object, or lacks one of the `required` keys."""
    if not isinstance(entry, dict):
        return UserError(f"{place} is {described(entry)}, but must be an object.")
    missing = next(name for name in required if name not in entry)
    return UserError(f"{place} ({_short(entry)}) has no {missing!r}.")


def described(value: Any) -> str:
    """A JSON value in words, for an error message."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    kind = names.get(type(value), "a number")
    return f"{kind}, {_short(value)}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_id(value: Any, place: str) -> int | str:
    """An id: a whole number or a text that is not empty, whichever it is.

    Raises:
        UserError: it is something else, such as null.
    """
    if type(value) is int or (type(value) is str and value):
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise UserError(f"{place} is {described(value)}, but an id is a whole number or a text.")


def as_flag(value: Any, place: str) -> int:
    """0 or 1 of a flag: 0, 1, true, false, or null, which is 0.

    Raises:
        UserError: it is something else.
    """
    if value is None or (isinstance(value, bool | int | float) and value in (0, 1)):
        return int(value or 0)
    raise UserError(f"{place} is {described(value)}, but a flag is 0, 1, true, false or null.")


def as_text(value: Any, place: str) -> str:
    """A text that is not empty; UserError if it is something else."""
    if isinstance(value, str) and value:
        return value
    raise UserError(f"{place} is {described(value)}, but must be text that is not empty.")
