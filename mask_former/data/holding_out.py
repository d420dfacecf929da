"""Dividing a data set into a part to train on and one to validate."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask_former.data.datasets.pairs import find_pairs
from mask_former.data.json_files import entries, read_json
from mask_former.data.writing import write_json
from mask_former.errors import UserError

SPLITS = ("train", "val")
SHARE = 0.1
"""Of the images that are held out."""


def hold_out_images(images: str, labels: str, label_suffix: str, output: Path) -> tuple[str, str]:
    """Write two lists of images beside `output`.

    Args:
        images, labels: folders.
        label_suffix: see `find_pairs`.
        output: a file, whose name those of the lists begin with.

    Returns:
        The path of the lists, with {split} in it, and what was done, in words.
    """
    pairs = find_pairs(images, labels, label_suffix=label_suffix)
    parts = _parts([os.path.relpath(image, images) for image, _ in pairs])
    lists = str(output.with_name(f"{output.stem}_{{split}}.txt"))
    for split, part in zip(SPLITS, parts, strict=True):
        path = Path(lists.replace("{split}", split))
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    return lists, _in_words(parts)


def hold_out_json(path: str, output: Path) -> tuple[str, str]:
    """Divide a JSON in COCO's format into two beside `output`. Returns as `hold_out_images`."""
    content = read_json(path)
    parts = _parts([image["id"] for image in entries(content, "images", path, ("id",))])
    annotations = entries(content, "annotations", path, ("image_id",))
    files = str(output.with_name(f"{output.stem}_{{split}}.json"))
    for split, part in zip(SPLITS, parts, strict=True):
        kept = set(part)
        write_json(
            files.replace("{split}", split),
            {
                **content,
                "images": [image for image in content["images"] if image["id"] in kept],
                "annotations": [a for a in annotations if a["image_id"] in kept],
            },
        )
    return files, _in_words(parts)


def _parts(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The items to train on and those that are held out, at random, the same in every run."""
    if len(items) < 2:
        raise UserError("There is one image: at least one to train on and one to test are needed.")
    count = max(round(SHARE * len(items)), 1)
    held_out = set(random.Random(0).sample(range(len(items)), count))
    train = [item for i, item in enumerate(items) if i not in held_out]
    return train, [items[i] for i in sorted(held_out)]


def _in_words(parts: tuple[list[Any], list[Any]]) -> str:
    return (
        f"{len(parts[0])} images to train on, {len(parts[1])} held out at random, to validate. If "
        "some images are nearly the same, such as frames of a video, do it by hand: keep these "
        "in one part"
    )
