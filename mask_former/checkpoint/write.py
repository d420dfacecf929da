"""Writing weights and configurations to files of their own."""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml

from mask_former.checkpoint.atomic_write import make_folder_of, replaced_when_complete
from mask_former.checkpoint.classes import KEY as CLASSES
from mask_former.checkpoint.classes import Category
from mask_former.checkpoint.names import Weights
from mask_former.errors import UserError


def write_weights(path: str, weights: Weights, classes: Sequence[Category] | None = None) -> None:
    """Write weights as `.pth` ({"model": weights}), `.safetensors` or `.pkl` (as Detectron2's
    model zoo has them), with the classes that they were trained on, where they are known. The
    folder is made when missing.

    Raises:
        UserError: another suffix, or a type of numbers that the format does not have.
    """
    writer = WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise UserError(f"{path}: weights are written to files named {', '.join(WRITERS)}.")
    make_folder_of(path)
    writer(path, weights, {} if classes is None else {CLASSES: list(classes)})


def write_yaml(path: str, keys: Mapping[str, Any], comment: str) -> None:
    """Write a config file, of nested keys, that begins with a comment."""
    text = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None)
    with replaced_when_complete(path) as f:
        f.write(f"# {comment}\n{text}".encode())


def _write_torch(path: str, weights: Weights, beside: dict[str, Any]) -> None:
    with replaced_when_complete(path) as f:
        torch.save({"model": weights, **beside}, f)


def _write_safetensors(path: str, weights: Weights, beside: dict[str, Any]) -> None:
    # transformers reads no file without this note.
    notes = {"format": "pt"} | {key: json.dumps(value) for key, value in beside.items()}
    content = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in weights.items()}, notes
    )
    with replaced_when_complete(path) as f:
        f.write(content)


def _write_pickle(path: str, weights: Weights, beside: dict[str, Any]) -> None:
    try:
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    except TypeError as error:
        raise UserError(f"{path}: NumPy has no such numbers, write .pth ({error})") from error
    with replaced_when_complete(path) as f:
        pickle.dump({"model": arrays, "__author__": "MaskFormer", **beside}, f)


WRITERS: dict[str, Callable[[str, Weights, dict[str, Any]], None]] = {
    ".pth": _write_torch,
    ".safetensors": _write_safetensors,
    ".pkl": _write_pickle,
}
