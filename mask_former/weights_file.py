"""Reading a file of weights without running anything that it holds.

A pickle is a little program, and `pickle.load` runs it. Here a `.pkl` may build numeric arrays,
strings, numbers and plain containers, and nothing else; a `.pth` goes through PyTorch's
`weights_only` loader; `.safetensors` is data by design.
"""

import collections
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_weights_file(path: str) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: a local file. `.pkl`: Detectron2's model zoo ({"model": arrays, "__author__"}), or
            Caffe2's, from which Detectron2's ImageNet weights come. `.pth`, `.pt`, `.bin`: what
            `torch.save` wrote, a training checkpoint or bare weights. `.safetensors`.

    Returns:
        "model": names to tensors, on the CPU; besides, whatever a training checkpoint holds
        ("optimizer", "iteration", ...). "__author__" is "Caffe2" where the names are Caffe2's.

    Raises:
        ValueError: another suffix, a broken file, a file that wants something run, or one without
            weights. The message names the file.
    """
    reader = READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: weights are read from files named {', '.join(READERS)}.")
    try:
        content = reader(path)
    except _RefusedError as error:
        # Not chained: PyTorch's own text advises to load the file unsafely.
        raise ValueError(
            f"{path} is not loaded: it refers to {error}, and nothing in a weights file is run. "
            "If its source is trusted, save its weights alone, as .pth or .safetensors."
        ) from None
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:  # A broken pickle or archive fails in any way.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} cannot be read; is it complete? ({reason})") from error

    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    if "model" not in content:
        content = _without_wrapper(content)
    if not isinstance(content["model"], dict):
        raise ValueError(f"{path}: 'model' is a {type(content['model']).__name__}, not weights.")
    weights = {k: _to_tensor(path, k, v) for k, v in content["model"].items()}
    return {**content, "model": weights}


def _without_wrapper(content: dict[str, Any]) -> dict[str, Any]:
    """Bare weights, as {"model": weights}; Caffe2's are known by names without a dot."""
    weights = content.get("blobs", content)
    if any("." in str(name) for name in weights):
        return {"model": weights}
    # The momenta of Caffe2's optimizer lie between its weights.
    weights = {k: v for k, v in weights.items() if not str(k).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2"}


def _to_tensor(path: str, name: Any, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        # A copy, writable and in this machine's byte order, as PyTorch requires.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    raise ValueError(f"{path}: '{name}' is a {type(value).__name__}, not a tensor or an array.")


class _RefusedError(pickle.UnpicklingError):
    """A file refers to something outside the lists below; the text is its name."""


def _read_safetensors(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"To read {path}, run `pip install safetensors`.") from error
    return {"model": load_file(path, device="cpu")}


def _read_torch(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        raise _RefusedError(refused[1]) from error


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as f:
        # latin1: byte strings of Python 2, which older weights were written with.
        return _ArrayUnpickler(f, encoding="latin1").load()


# NumPy's own constructors trust what a pickle tells them: an array of objects may be made of raw
# addresses. So the names that a pickle uses stand for the few lines below, which build arrays of
# numbers from checked parts.


class _DType:
    """What a pickle says of a dtype: kind and size, then the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[?biufc]\d*", code)):
            raise _RefusedError(f"numpy.dtype({code!r})")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Array(np.ndarray):
    """An array that a pickle is about to fill."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, _numpy_dtype(dtype), is_fortran, data))


def _numpy_dtype(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise _RefusedError(f"an array of {dtype!r}")
    return dtype.numpy()


def _make_array(*_: Any) -> _Array:
    return _Array(0, dtype=np.uint8)


def _make_dtype(code: Any, *_: Any) -> _DType:
    return _DType(code)


def _make_scalar(dtype: Any, data: bytes | str) -> np.generic:
    return np.frombuffer(_latin1(data), _numpy_dtype(dtype))[0]


def _array_of_buffer(data: bytes, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, _numpy_dtype(dtype)).reshape(shape, order=order)


def _latin1(text: bytes | str, *_: Any) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else text


ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": _latin1,  # how Python 3 writes bytes for Python 2
    "numpy.ndarray": None,  # an argument of _reconstruct, never called
    "numpy.dtype": _make_dtype,
}
for _module in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    ADMITTED[f"{_module}.multiarray._reconstruct"] = _make_array
    ADMITTED[f"{_module}.multiarray.scalar"] = _make_scalar
    ADMITTED[f"{_module}.numeric._frombuffer"] = _array_of_buffer
for _module in ("builtins", "__builtin__"):  # Python 3 and Python 2
    ADMITTED[f"{_module}.set"] = set
    ADMITTED[f"{_module}.frozenset"] = frozenset
    ADMITTED[f"{_module}.bytes"] = bytes


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the names in `ADMITTED`, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ADMITTED:
            raise _RefusedError(f"{module}.{name}")
        return ADMITTED[f"{module}.{name}"]


READERS: dict[str, Callable[[str], Any]] = {
    ".pkl": _read_pickle,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".bin": _read_torch,  # of `transformers`
}
