"""Reading a file of weights without running anything that it holds.

A `.pkl` goes through `safe_pickle`, a `.pth` through PyTorch's `weights_only` loader;
`.safetensors` is data by design.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mask_former.checkpoint.classes import KEY as CLASSES
from mask_former.checkpoint.classes import Category, classes_in
from mask_former.checkpoint.pickle_limits import ExcessiveError, check_pickle
from mask_former.checkpoint.safe_pickle import RefusedError, read_pickle
from mask_former.errors import BrokenFileError, MissingFileError, UserError


def read_weights_file(path: str) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: a local file. `.pkl`: Detectron2's model zoo ({"model": arrays, "__author__"}), or
            Caffe2's, from which Detectron2's ImageNet weights come. `.pth`, `.pt`, `.bin`,
            `.tar`: what `torch.save` wrote, a training checkpoint or bare weights. `.safetensors`.

    Returns:
        "model": names to tensors, on the CPU; besides, whatever a training checkpoint holds
        ("optimizer", "iteration", ...). "__author__" is "Caffe2" where the names are Caffe2's.

    Raises:
        MissingFileError: there is no such file.
        BrokenFileError: it cannot be read to its end.
        UserError: another suffix, a file that wants something run, or one without weights. The
            message names the file.
    """
    reader = READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: weights are read from files named {', '.join(READERS)}.")
    with _explained_errors(path):
        content = reader(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    if "model" not in content:
        content = _without_wrapper(content)
    if not isinstance(content["model"], dict):
        raise UserError(f"{path}: 'model' is a {type(content['model']).__name__}, not weights.")
    for name in content["model"]:
        if not isinstance(name, str):
            raise UserError(f"{path} names a weight {name!r}, which is not a string.")
    weights = {k: _to_tensor(path, k, v) for k, v in content["model"].items()}
    return {**content, "model": weights}


def trained_classes(path: str) -> list[Category] | None:
    """The classes that a file of weights was trained on, without reading the weights where that
    can be avoided; None: it does not say. Raises as `read_weights_file`."""
    if Path(path).suffix.lower() in _TORCH and zipfile.is_zipfile(path):
        with _explained_errors(path):
            content = _read_torch(path, mmap=True)
        return classes_in(content) if isinstance(content, dict) else None
    return classes_in(read_weights_file(path))


@contextmanager
def _explained_errors(path: str) -> Iterator[None]:
    """Turn whatever goes wrong in reading a file into an error that names it."""
    try:
        yield
    except RefusedError as error:
        # Not chained: PyTorch's own text advises to load the file unsafely.
        raise UserError(
            f"{path} is not loaded: it refers to {error}, and nothing in a weights file is run. "
            "If its source is trusted, save its weights alone, as .pth or .safetensors."
        ) from None
    except ExcessiveError as error:
        raise UserError(f"{path} is not loaded: {error}.") from None
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file {path}.") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # A broken pickle or archive fails in any way.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BrokenFileError(f"{path} cannot be read; is it complete? ({reason})") from error


def _without_wrapper(content: dict[str, Any]) -> dict[str, Any]:
    """Bare weights, as {"model": weights}; Caffe2's are known by names without a dot."""
    if isinstance(content.get("state_dict"), dict):  # Lightning's
        return {"model": content["state_dict"]}
    weights = content.get("blobs", content)
    if not isinstance(weights, dict) or any("." in str(name) for name in weights):
        return {"model": weights}
    # The momenta of Caffe2's optimizer lie between its weights.
    weights = {k: v for k, v in weights.items() if not str(k).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2"}


def _to_tensor(path: str, name: Any, value: Any) -> Tensor:
    kind = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            return value
        kind = f"a tensor of layout {value.layout}"
    if isinstance(value, np.ndarray | np.generic):
        # A copy, writable and in this machine's byte order, as PyTorch requires.
        array = np.array(value, dtype=value.dtype.newbyteorder("="))
        try:
            return torch.from_numpy(array)
        except TypeError:
            kind = f"an array of {value.dtype}"
    raise UserError(f"{path}: '{name}' is {kind}, not a tensor or an array of numbers.")


def _read_safetensors(path: str) -> Any:
    with safetensors.safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    try:
        classes = json.loads(notes.get(CLASSES, "null"))
    except ValueError:  # of another program
        classes = None
    return {"model": safetensors.torch.load_file(path, device="cpu"), CLASSES: classes}


def _read_torch(path: str, mmap: bool = False) -> Any:
    _check_torch(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        raise RefusedError(refused[1]) from error


def _check_torch(path: str) -> None:
    """Check the pickles of a file of `torch.save`: one in a zip archive or, in the format before
    PyTorch 1.6, five in a row."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    with archive.open(name) as file:
                        check_pickle(io.BytesIO(file.read()))
        return
    with open(path, "rb") as file:
        for _ in range(5):
            check_pickle(file)


_TORCH = (".pth", ".pt", ".bin")
READERS: dict[str, Callable[[str], Any]] = {
    ".pkl": read_pickle,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".bin": _read_torch,  # of `transformers`
    ".tar": _read_torch,  # of ImageNet classifiers
}
