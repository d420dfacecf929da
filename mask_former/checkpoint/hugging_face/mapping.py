"""Reading and writing nested configurations by the full names of their keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from mask_former.errors import UserError

Keys = dict[str, Any]
# (their key, our key, their default)
Rows = tuple[tuple[str, str, Any], ...]
NUM_CLASSES = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"


def get(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of "a.b.c" in nested dictionaries; the default where there is none."""
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            return default
        value = value[name]
    return list(value) if isinstance(value, tuple) else value


def coerced(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`; of a square, such as an image, one side."""
    try:
        if isinstance(value, list) and not isinstance(default, list):
            value = value[0]
        return type(default)(value)
    except (ValueError, TypeError, IndexError) as error:
        kind = type(default).__name__
        raise UserError(f"{key} is {value!r}, but should be a {kind}, like {default!r}") from error


def from_theirs(rows: Rows, config: Mapping[str, Any]) -> Keys:
    """Our keys for theirs, and for the classes that their configuration lists."""
    keys = {ours: coerced(key, get(config, key, default), default) for key, ours, default in rows}
    return keys | {NUM_CLASSES: len(get(config, "id2label", {"0": "", "1": ""}))}


def from_ours(rows: Rows, cfg: Mapping[str, Any], class_names: Sequence[str] | None) -> Keys:
    """The way back, with made-up names of classes where they are not as many."""
    return {theirs: get(cfg, ours, None) for theirs, ours, _ in rows} | _labels(
        get(cfg, NUM_CLASSES, 0), class_names
    )


def require(constants: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise UserError unless `config` has the value of every key of `constants`, or none."""
    for key, needed in constants.items():
        value = get(config, key, needed)
        if value != needed:
            raise UserError(f"{key} is {value!r}; the two models have in common only {needed!r}")


def nested(keys: Mapping[str, Any]) -> Keys:
    """{"A.B": 1, "C": 2} -> {"A": {"B": 1}, "C": 2}."""
    result: Keys = {}
    for key, value in keys.items():
        *sections, last = key.split(".")
        section = result
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return result


def _labels(num_classes: int, class_names: Sequence[str] | None) -> Keys:
    """Their two dictionaries of classes."""
    if class_names is None or len(class_names) != num_classes:
        class_names = [f"LABEL_{i}" for i in range(num_classes)]
    return {
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "label2id": {name: i for i, name in enumerate(class_names)},
    }
