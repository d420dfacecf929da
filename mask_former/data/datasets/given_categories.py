"""What a user says about the categories of a JSON, beside the JSON."""

from collections.abc import Sequence
from pathlib import Path

from mask_former.data.classes import Category
from mask_former.data.datasets.semantic_classes import as_color
from mask_former.errors import UserError, listed


def with_given(
    categories: Sequence[Category],
    path: str | Path,
    classes: Sequence[str] = (),
    colors: Sequence[Sequence[int]] = (),
    things: Sequence[str] = (),
) -> list[Category]:
    """The categories of a JSON with the colours, and the things, that are given besides.

    Args:
        categories: in the order of the contiguous ids.
        path: of the JSON, for error messages.
        classes: names that they must have. Empty: any.
        colors: RGB of each, which count instead of those of the JSON. Empty: none.
        things: the names of those that are things, where the JSON does not say `isthing`. Empty:
            not given.

    Raises:
        UserError: what is given contradicts the JSON; names the keys of DATASETS.CUSTOM.
    """
    names = [category["name"] for category in categories]
    if classes and list(classes) != names:
        raise UserError(
            f"CLASSES is {list(classes)}, but the categories of {path} are, in their order, "
            f"{names}. Leave CLASSES out: the names come from the file."
        )
    if colors and len(colors) != len(names):
        raise UserError(
            f"COLORS has {len(colors)} entries, but {path} has {len(names)} categories: "
            f"{listed(names)}. Give one for each, in their order."
        )
    categories = [dict(category) for category in categories]
    for category, color in zip(categories, colors, strict=False):
        category["color"] = as_color(color, "COLORS")
    if things:
        _add_things(categories, path, things)
    return categories


def _add_things(categories: list[Category], path: str | Path, things: Sequence[str]) -> None:
    names = [category["name"] for category in categories]
    if unknown := [thing for thing in things if thing not in names]:
        raise UserError(
            f"THINGS has {unknown[0]!r}, but the categories of {path} are {listed(names)}."
        )
    for category in categories:
        name, is_thing = category["name"], int(category["name"] in things)
        if category.setdefault("isthing", is_thing) != is_thing:
            raise UserError(
                f"THINGS is {list(things)}, but {path} says isthing {category['isthing']} of "
                f"{name!r}. Leave THINGS out: the file says it."
            )
