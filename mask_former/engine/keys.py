"""The keys of a config by their full names, such as MODEL.BACKBONE.NAME."""

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import Any

from detectron2.config import CfgNode


def section_of(cfg: CfgNode, key: str) -> tuple[CfgNode, str]:
    """The section that holds a key, and the key's name there."""
    *sections, name = key.split(".")
    return reduce(getitem, sections, cfg), name


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key, or a section."""
    return reduce(getitem, key.split("."), cfg)


def flatten(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The full name and the value of every key: {"A": {"B": 1}} -> ("A.B", 1)."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
