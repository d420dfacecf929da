"""A folder as `save_pretrained` of `transformers` writes it: weights and configurations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mask_former.checkpoint.atomic_write import replaced_when_complete
from mask_former.checkpoint.hugging_face.config import config_from_hugging_face
from mask_former.checkpoint.hugging_face.eomt_config import masks_of_inference
from mask_former.checkpoint.hugging_face.mapping import Keys
from mask_former.checkpoint.names import Weights, without_counters
from mask_former.checkpoint.write import write_weights
from mask_former.errors import MissingFileError, UserError, prefixed

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")  # the better one first
CONFIG_NAME = "config.json"
PROCESSOR_NAME = "preprocessor_config.json"


def find_weights(path: str) -> str:
    """The file of weights in a folder; a file is itself.

    Raises:
        MissingFileError: there is none in the folder.
    """
    if not Path(path).is_dir():
        return path
    for file in (Path(path, name) for name in WEIGHTS_NAMES):
        if file.is_file():
            return str(file)
    raise MissingFileError(f"The folder {path} holds none of {', '.join(WEIGHTS_NAMES)}.")


def read_config_beside(path: str, weights: Weights) -> Keys | None:
    """The configuration that lies beside weights of `transformers`, as our keys.

    Args:
        path: of their file or folder.
        weights: the same, converted to ours.

    Returns:
        our key -> value; None if there is no configuration.

    Raises:
        UserError: the configuration is broken, or describes a model that we have no counterpart of.
    """
    folder = Path(find_weights(path)).parent
    config = _read_json(folder / CONFIG_NAME)
    if config is None:
        return None
    with prefixed(f"{folder / CONFIG_NAME} is not converted: "):
        keys = config_from_hugging_face(config, _read_json(folder / PROCESSOR_NAME))
    if keys["MODEL.META_ARCHITECTURE"] == "EoMT":
        keys |= masks_of_inference(weights)
    if keys["MODEL.BACKBONE.NAME"] == "build_resnet_backbone":
        counts_batches = without_counters(weights)[1]
        keys["MODEL.RESNETS.NORM"] = "BN" if counts_batches else "FrozenBN"
    return keys


def write_folder(
    folder: str, weights: Weights, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> None:
    """Write what `from_pretrained` of `transformers` reads."""
    write_weights(str(Path(folder, WEIGHTS_NAMES[0])), weights)
    for name, content in ((CONFIG_NAME, config), (PROCESSOR_NAME, processor)):
        with replaced_when_complete(Path(folder, name)) as f:
            f.write((json.dumps(content, indent=2) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of the encoding
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object, not a {type(content).__name__}")
    return content
