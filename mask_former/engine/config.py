"""Loading a configuration: defaults, then a yaml file and its bases, then the command line."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.utils.file_io import PathManager

from mask_former.config import add_mask_former_config
from mask_former.data.datasets.custom import SECTION, custom_dataset
from mask_former.engine.completion import complete_config
from mask_former.engine.config_values import check_value
from mask_former.engine.keys import flatten, value_of
from mask_former.engine.own_data import follow_data, given_with_data, register_own
from mask_former.errors import MissingFileError, UserError

BASE_KEY = "_BASE_"
# A setting: key, value, and where it stands.
Setting = tuple[str, Any, str]

# The one expression that published recipes have Python evaluate: sizes in steps of a size.
_SIZES = re.compile(r"int\(x \* ([\d.]+) \* (\d+)\) for x in range\((\d+), (\d+)\)")


def get_cfg() -> CfgNode:
    """The defaults: Detectron2's, and MaskFormer's."""
    cfg = get_detectron2_cfg()
    add_mask_former_config(cfg)
    return cfg


def load_config(
    config_file: str = "", opts: Sequence[str] = (), cfg: CfgNode | None = None
) -> CfgNode:
    """The defaults, changed by a yaml file, and then by options; IMPORTS are imported, and the data
    sets of DATASETS.CUSTOM registered.

    Args:
        config_file: path of a yaml file; `_BASE_` in it names the file, or the list of files, that
            it changes, relative to its own folder. Plain yaml: a tag that would run Python is an
            error. Empty: none.
        opts: KEY, VALUE, KEY, VALUE, ... as on the command line.
        cfg: instead of the defaults, such as a configuration with another project's keys. It is
            not changed; what it lacks of `get_cfg()` is added.

    Returns:
        The configuration, not frozen.

    Raises:
        FileNotFoundError: the file, or a base, does not exist.
        UserError: no valid yaml, an unknown key, a value of the wrong type, or a flag among the
            options. The message names the file, or the command line, the key and what is expected.
    """
    settings = read_settings(config_file, opts)
    cfg = get_cfg() if cfg is None else _with_missing(cfg.clone(), get_cfg())
    cfg.defrost()
    for setting in settings:
        _merge(cfg, setting)
    complete_config(cfg, given={key for key, _, _ in settings})
    register_own(cfg)
    follow_data(cfg, given=given_with_data(settings))
    return cfg


def _with_missing(cfg: CfgNode, defaults: CfgNode) -> CfgNode:
    """Add to `cfg`, in place, the keys of `defaults` that it lacks; at any depth."""
    cfg.defrost()
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            _with_missing(cfg[key], value)
    return cfg


def read_settings(config_file: str = "", opts: Sequence[str] = ()) -> list[Setting]:
    """What `load_config` applies to the defaults, in that order."""
    return [*(_read_file(config_file) if config_file else ()), *_read_options(opts)]


def _read_options(opts: Sequence[str]) -> list[Setting]:
    if flags := [option for option in opts if str(option).startswith("--")]:
        raise UserError(f"{flags[0]} stands behind KEY VALUE options; flags come before them.")
    if len(opts) % 2:
        raise UserError(
            "Options on the command line are pairs, KEY VALUE, separated by blanks: "
            f"one has no value in '{' '.join(map(str, opts))}'."
        )
    return [
        (key, value, "the command line") for key, value in zip(opts[::2], opts[1::2], strict=True)
    ]


def _read_file(path: str, children: tuple[str, ...] = ()) -> Iterator[Setting]:
    """The settings of a file's bases, then its own; `children` led to it through `_BASE_`."""
    if path in children:
        raise UserError(f"{' -> '.join([*children, path])}: {BASE_KEY} leads in a circle.")
    if not PathManager.isfile(path):
        origin = f" ({BASE_KEY} of {children[-1]})" if children else ""
        raise MissingFileError(f"The config file {path}{origin} does not exist.")

    content = _read_yaml(path)
    bases = content.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY} is {bases!r}, but must be a file or a list of files.")
    for base in bases:
        base = os.path.expanduser(base)
        if "://" not in base:
            base = os.path.normpath(os.path.join(os.path.dirname(path), base))
        yield from _read_file(base, (*children, path))
    try:
        settings = list(flatten(content))
    except RecursionError as error:
        raise UserError(f"{path}: a section contains itself.") from error
    for key, value in settings:
        yield key, value, path


class _Loader(yaml.SafeLoader):
    """Plain yaml whose keys are unique: of two sections of one name, yaml would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key.value, str) and key.value in lines:
                raise yaml.YAMLError(
                    f"{key.value} occurs twice, in the lines {lines[key.value]} and {line}; join "
                    "the two."
                )
            lines[str(key.value)] = line
        return super().construct_mapping(node, deep)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        with PathManager.open(path, "r") as f:
            text = f.read()
        content = yaml.load(text, _Loader)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line
        raise UserError(
            f"{path} needs more than plain yaml: {error.problem}, line {line + 1}. Nothing in a "
            f"config file is run; write the value out{_written_out(text.splitlines()[line])}."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid yaml: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(content).__name__}.")
    return content


def _written_out(line: str) -> str:
    """What to write instead of a line of a published recipe that has Python list sizes."""
    found = _SIZES.search(line)
    if not found:
        return ""
    step, size, first, last = float(found[1]), int(found[2]), int(found[3]), int(found[4])
    sizes = [int(x * step * size) for x in range(first, min(last, first + 100))]
    return f": `{line.split(':')[0].strip()}: {sizes}`"


def _merge(cfg: CfgNode, setting: Setting) -> None:
    key, value, source = setting
    if key == "VERSION" and value != cfg.VERSION:
        raise UserError(f"{source}: VERSION is {value}, this needs {cfg.VERSION}.")
    if cfg.key_is_deprecated(key):  # logs a warning
        return
    if key.startswith(f"{SECTION}."):
        _open_entry(cfg, setting)
    known = dict(flatten(cfg))
    if key not in known:
        if key == SECTION or any(name.startswith(f"{key}.") for name in known):
            raise UserError(f"{source}: {key} is a section, not a key; set keys inside it.")
        if nearest := difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.5):
            raise UserError(f"{source}: unknown key {key}; the nearest known key is {nearest[0]}.")
        raise UserError(
            f"{source}: unknown key {key}, and none is like it. If it is another project's, "
            "leave it out, or load the config in Python: docs/DETECTRON2.md says how."
        )
    value = _as_float(value) if isinstance(known[key], float) else value
    try:
        cfg.merge_from_list([key, value])
    except (ValueError, TypeError, AssertionError, MemoryError, RecursionError) as error:
        example = known[key] or ("NAME",) if isinstance(known[key], tuple) else known[key]
        raise UserError(
            f"{source}: {key} must be a {type(example).__name__}, like {example!r}; "
            f"it is {value!r}."
        ) from error
    check_value(key, value_of(cfg, key), known[key], source)


def _as_float(value: Any) -> Any:
    """A number where one with a decimal point is meant: 1 and, which yaml takes for text, 1e-4."""
    if type(value) in (int, str):
        with suppress(ValueError, OverflowError):
            return float(value)
    return value


def _open_entry(cfg: CfgNode, setting: Setting) -> None:
    """Give a data set that a key of DATASETS.CUSTOM is the first of its defaults."""
    key, value, source = setting
    name, _, _ = key.removeprefix(f"{SECTION}.").rpartition(".")
    if not name or "." in name:
        raise UserError(
            f"{source}: {key} is {value!r}, but {SECTION} holds sections, one for each data set "
            f"under a name without dots: {SECTION}.mine.FORMAT, ..."
        )
    if name not in cfg.DATASETS.CUSTOM:
        cfg.DATASETS.CUSTOM[name] = custom_dataset()
