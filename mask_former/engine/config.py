"""Loading a configuration: defaults, then a yaml file and its bases, then the command line."""

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.utils.file_io import PathManager

from mask_former.config import add_mask_former_config
from mask_former.errors import MissingFileError, UserError

BASE_KEY = "_BASE_"


def get_cfg() -> CfgNode:
    """The defaults: Detectron2's, and MaskFormer's."""
    cfg = get_detectron2_cfg()
    add_mask_former_config(cfg)
    return cfg


def load_config(config_file: str = "", opts: Sequence[str] = ()) -> CfgNode:
    """The defaults, changed by a yaml file, and then by options.

    Args:
        config_file: path of a yaml file; `_BASE_` in it names the file, or the list of files, that
            it changes, relative to its own folder. Plain yaml: a tag that would run Python is an
            error. Empty: none.
        opts: KEY, VALUE, KEY, VALUE, ... as on the command line.

    Returns:
        The configuration, not frozen.

    Raises:
        FileNotFoundError: the file, or a base, does not exist.
        ValueError: no valid yaml, an unknown key, a value of the wrong type, or a flag among the
            options. The message names the file, or the command line, the key and what is expected.
    """
    cfg = get_cfg()
    if config_file:
        _merge_file(cfg, config_file, children=())
    if flags := [option for option in opts if str(option).startswith("--")]:
        raise UserError(f"{flags[0]} stands behind KEY VALUE options; flags come before them.")
    if len(opts) % 2:
        raise UserError(
            "Options on the command line are pairs, KEY VALUE, separated by blanks: "
            f"one has no value in '{' '.join(map(str, opts))}'."
        )
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _merge_value(cfg, key, value, source="the command line")
    return cfg


def _merge_file(cfg: CfgNode, path: str, children: tuple[str, ...]) -> None:
    """Merge a file after its bases; `children` are the files that led to it through `_BASE_`."""
    if path in children:
        raise UserError(f"{' -> '.join([*children, path])}: {BASE_KEY} leads in a circle.")
    if not PathManager.isfile(path):
        origin = f" ({BASE_KEY} of {children[-1]})" if children else ""
        raise MissingFileError(f"The config file {path}{origin} does not exist.")

    content = _read_yaml(path)
    bases = content.pop(BASE_KEY, [])
    for base in [bases] if isinstance(bases, str) else bases:
        base = os.path.expanduser(base)
        if "://" not in base:
            base = os.path.normpath(os.path.join(os.path.dirname(path), base))
        _merge_file(cfg, base, (*children, path))
    if content.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise UserError(f"{path}: VERSION is {content['VERSION']}, this needs {cfg.VERSION}.")
    for key, value in _flatten(content):
        _merge_value(cfg, key, value, source=path)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        with PathManager.open(path, "r") as f:
            content = yaml.safe_load(f)
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{path} needs more than plain yaml: {error.problem}, line "
            f"{error.problem_mark.line + 1}. Nothing in a config file is run; write the value out."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid yaml: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(content).__name__}.")
    return content


def _flatten(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The full key and the value of every entry: {"A": {"B": 1}} -> ("A.B", 1)."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merge_value(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    known = dict(_flatten(cfg))
    if key not in known:
        if any(name.startswith(f"{key}.") for name in known):
            raise UserError(f"{source}: {key} is a section, not a key; set keys inside it.")
        nearest = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.0)[0]
        raise UserError(f"{source}: unknown key {key}; the nearest known key is {nearest}.")
    try:
        cfg.merge_from_list([key, value])
    except (ValueError, TypeError, AssertionError) as error:
        example = known[key] or ("NAME",) if isinstance(known[key], tuple) else known[key]
        raise UserError(
            f"{source}: {key} must be a {type(example).__name__}, like {example!r}; "
            f"it is {value!r}."
        ) from error
