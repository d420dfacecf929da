"""Files of weights: a folder of `transformers`, and single files of ours."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mask_former.checkpoint.atomic_write import replaced_when_complete
from mask_former.checkpoint.hugging_face import COUNTER
from mask_former.checkpoint.hugging_face_config import Keys, config_from_hugging_face, nested
from mask_former.checkpoint.match import has_head
from mask_former.checkpoint.names import Weights, canonical_names
from mask_former.checkpoint.read import read_weights_file
from mask_former.checkpoint.sources import SOURCES, Conversion, find_source, to_ours
from mask_former.errors import MissingFileError, UserError

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")  # transformers', the better one first
CONFIG_NAME = "config.json"
PROCESSOR_NAME = "preprocessor_config.json"


def find_weights(path: str) -> str:
    """The file of weights in a folder of `transformers`; a file is itself.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(path).is_dir():
        return path
    for name in WEIGHTS_NAMES:
        if (Path(path) / name).is_file():
            return str(Path(path) / name)
    raise MissingFileError(f"The folder {path} holds none of {', '.join(WEIGHTS_NAMES)}.")


def read_as_ours(path: str, source: str | None = None) -> Conversion:
    """Read weights under our names, from whatever file.

    Args:
        path: a file, or a folder of `transformers`.
        source: whose they are, a key of `SOURCES`; by default found by their names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or its weights are nobody's that we know.
    """
    path = find_weights(path)
    weights = read_weights_file(path)["model"]
    source = source or find_source(weights)
    if source is None:
        ours = canonical_names(weights)
        if not has_head(ours):
            raise UserError(
                f"{path}: the names of its weights are not those of a MaskFormer, nor of any of "
                f"{', '.join(SOURCES)}; they begin with {', '.join(list(weights)[:3])}"
            )
        return Conversion("ours", ours, sorted(weights.keys() - ours.keys()))
    try:
        return to_ours(weights, source)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def read_keys_beside(path: str, weights: Weights) -> Keys | None:
    """Our keys of the configuration that lies beside weights of `transformers`.

    Args:
        path: of their file or folder.
        weights: what became of them.

    Returns:
        our key -> value; None if there is no configuration.

    Raises:
        ValueError: the configuration is broken, or describes a model that we cannot have.
    """
    folder = Path(find_weights(path)).parent
    config = _read_json(folder / CONFIG_NAME)
    if config is None:
        return None
    try:
        keys = config_from_hugging_face(config, _read_json(folder / PROCESSOR_NAME))
    except ValueError as error:
        raise UserError(f"{folder / CONFIG_NAME} is not converted: {error}") from error
    if keys["MODEL.BACKBONE.NAME"] == "build_resnet_backbone":
        counts = any(name.endswith(COUNTER) for name in weights)
        keys["MODEL.RESNETS.NORM"] = "BN" if counts else "FrozenBN"
    return keys


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object, not a {type(content).__name__}")
    return content


def write_folder(
    folder: str, weights: Weights, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> None:
    """Write what `from_pretrained` of `transformers` reads."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_weights(str(path / WEIGHTS_NAMES[0]), weights)
    for name, content in ((CONFIG_NAME, config), (PROCESSOR_NAME, processor)):
        with replaced_when_complete(str(path / name)) as f:
            f.write((json.dumps(content, indent=2) + "\n").encode())


def write_weights(path: str, weights: Weights) -> None:
    """Write weights as `.pth` ({"model": weights}), `.safetensors` or `.pkl` (as Detectron2's
    model zoo has them).

    Raises:
        ValueError: another suffix, or a type of numbers that the format does not have.
    """
    writer = WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise UserError(f"{path}: weights are written to files named {', '.join(WRITERS)}.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer(path, weights)


def write_yaml(path: str, keys: Mapping[str, Any], comment: str) -> None:
    """Write our keys, {"A.B": value}, as a config file that begins with a comment."""
    text = yaml.safe_dump(nested(keys), sort_keys=False, default_flow_style=None)
    with replaced_when_complete(path) as f:
        f.write(f"# {comment}\n{text}".encode())


def _write_torch(path: str, weights: Weights) -> None:
    with replaced_when_complete(path) as f:
        torch.save({"model": weights}, f)


def _write_safetensors(path: str, weights: Weights) -> None:
    from safetensors.torch import save

    # transformers reads no file without this note.
    content = save({k: v.contiguous() for k, v in weights.items()}, {"format": "pt"})
    with replaced_when_complete(path) as f:
        f.write(content)


def _write_pickle(path: str, weights: Weights) -> None:
    try:
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    except TypeError as error:
        raise UserError(f"{path}: NumPy has no such numbers, write .pth ({error})") from error
    with replaced_when_complete(path) as f:
        pickle.dump({"model": arrays, "__author__": "MaskFormer"}, f)


WRITERS: dict[str, Callable[[str, Weights], None]] = {
    ".pth": _write_torch,
    ".safetensors": _write_safetensors,
    ".pkl": _write_pickle,
}
