"""Reading a pickle without running it.

A pickle is a little program, and `pickle.load` runs it. Here it may build arrays, strings, numbers
and plain containers, and nothing else.
"""

import collections
import math
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from mask_former.checkpoint.pickle_limits import check_pickle

NUMBERS = r"[?biufc]\d*"
NUMBERS_AND_TEXTS = r"[?biufcSUO]\d*"
"""Kinds of arrays, as patterns of NumPy's names of dtypes; O: arrays of plain objects."""


class RefusedError(pickle.UnpicklingError):
    """A file refers to something outside the lists below; the text is its name."""


def read_pickle(path: str, *, arrays: str = NUMBERS) -> Any:
    """Read a pickle of plain containers and arrays.

    Args:
        path: a local file.
        arrays: which kinds of arrays it may have, `NUMBERS` or `NUMBERS_AND_TEXTS`.

    Raises:
        RefusedError: the file wants something else; nothing of it has been run.
        ExcessiveError: it would take too long.
        Exception: whatever a broken pickle leads to.
    """
    with open(path, "rb") as f:
        check_pickle(f)
        f.seek(0)
        return _PlainUnpickler(f, arrays).load()


# NumPy's own constructors trust what a pickle tells them: an array of objects may be made of raw
# addresses. So the names that a pickle uses stand for the few lines below, which build arrays from
# checked parts.


class _DType:
    """What a pickle says of a dtype: kind and size, then the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, allowed: str, code: Any, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(allowed, code)):
            raise RefusedError(f"numpy.dtype({code!r})")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Array(np.ndarray):
    """An array that a pickle is about to fill."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, data = state
        # Objects come as a list, whose length NumPy takes on trust.
        if _numpy_dtype(dtype).hasobject and not (
            isinstance(data, list) and len(data) == math.prod(shape)
        ):
            raise RefusedError(f"an array of {type(data).__name__}")
        super().__setstate__((version, shape, _numpy_dtype(dtype), is_fortran, data))


def _numpy_dtype(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise RefusedError(f"an array of {dtype!r}")
    return dtype.numpy()


class _Builder:
    """A function that a pickle may call, but, unlike a function, cannot change."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError(f"the state of {self._build}")


def _make_array(*_: Any) -> _Array:
    return _Array(0, dtype=np.uint8)


def _make_scalar(dtype: Any, data: bytes | str) -> np.generic:
    # NumPy refuses to make objects of bytes.
    value = np.frombuffer(_latin1(data), _numpy_dtype(dtype))[0]
    if value.dtype.kind == "c":  # of which any number can be made that have one hash
        raise RefusedError("a complex number")
    return value


def _array_of_buffer(data: bytes, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, _numpy_dtype(dtype)).reshape(shape, order=order)


def _empty_bytes() -> bytes:
    return b""  # All others are written out; of a number it would make that many.


def _latin1(text: bytes | str, *_: Any) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else text


ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": _Builder(_latin1),  # how Python 3 writes bytes for Python 2
    "numpy.ndarray": None,  # an argument of _reconstruct, never called
}
for _module in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    ADMITTED[f"{_module}.multiarray._reconstruct"] = _Builder(_make_array)
    ADMITTED[f"{_module}.multiarray.scalar"] = _Builder(_make_scalar)
    ADMITTED[f"{_module}.numeric._frombuffer"] = _Builder(_array_of_buffer)
for _module in ("builtins", "__builtin__"):  # Python 3 and Python 2
    ADMITTED[f"{_module}.set"] = set
    ADMITTED[f"{_module}.frozenset"] = frozenset
    ADMITTED[f"{_module}.bytes"] = _Builder(_empty_bytes)


class _PlainUnpickler(pickle.Unpickler):
    """Knows `numpy.dtype` and the names in `ADMITTED`, and no other."""

    def __init__(self, file: BinaryIO, arrays: str) -> None:
        # latin1: byte strings of Python 2, which older weights were written with.
        super().__init__(file, encoding="latin1")
        self._arrays = arrays

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _Builder(partial(_DType, self._arrays))
        if f"{module}.{name}" not in ADMITTED:
            raise RefusedError(f"{module}.{name}")
        return ADMITTED[f"{module}.{name}"]
