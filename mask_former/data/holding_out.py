"""Dividing a data set into a part to train on and one to validate."""

import os
import random
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask_former.data.coco_format import decode_ids
from mask_former.data.datasets.pairs import find_pairs
from mask_former.data.json_files import as_id, entries, read_json
from mask_former.data.label_map import count_pixels
from mask_former.data.reading import read_label_image
from mask_former.data.writing import write_json
from mask_former.errors import UserError

SPLITS = ("train", "val")
SHARE = 0.1
"""Of the images that are held out."""
MOST = 0.25
"""Of the images that are held out so that all classes are, at most."""


def hold_out_images(images: str, labels: str, label_suffix: str, output: Path) -> tuple[str, str]:
    """Write two lists of images beside `output`. All label maps are read, with a progress bar.

    Args:
        images, labels: folders.
        label_suffix: see `find_pairs`.
        output: a file, whose name those of the lists begin with.

    Returns:
        The path of the lists, with {split} in it, and what was done, in words.
    """
    pairs = find_pairs(images, labels, label_suffix=label_suffix)
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(_values, (label_map for _, label_map in pairs))
        classes = list(tqdm(found, "Dividing the images", len(pairs), unit="image"))
    parts = divide([os.path.relpath(image, images) for image, _ in pairs], classes)
    lists = str(output.with_name(f"{output.stem}_{{split}}.txt"))
    for split, part in zip(SPLITS, parts, strict=True):
        path = Path(lists.replace("{split}", split))
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    return lists, _in_words(parts)


def _values(label_map: str) -> list[int]:
    """The values or colours of a label map."""
    pixels = read_label_image(label_map).pixels
    if pixels.ndim == 3:  # of two channels the second is transparency
        pixels = decode_ids(pixels[..., :3]) if pixels.shape[2] > 2 else pixels[..., 0]
    return count_pixels(pixels)[0].tolist()


def hold_out_json(path: str, output: Path) -> tuple[str, str]:
    """Divide a JSON in COCO's format into two beside `output`. Returns as `hold_out_images`."""
    content = read_json(path)
    annotations = entries(content, "annotations", path, ("image_id",))
    classes: dict[Hashable, set[str]] = {
        as_id(image["id"], f"{path}: the id of an image"): set()
        for image in entries(content, "images", path, ("id",))
    }
    for annotation in annotations:
        image_id = as_id(annotation["image_id"], f"{path}: the image_id of an annotation")
        segments = [annotation]
        if "segments_info" in annotation:
            segments = entries(annotation, "segments_info", path, ())
        classes.get(image_id, set()).update(str(s.get("category_id")) for s in segments)
    parts = divide(list(classes), [sorted(found) for found in classes.values()])
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


def divide(
    items: Sequence[Any], classes: Sequence[Collection[Hashable]]
) -> tuple[list[Any], list[Any]]:
    """The items to train on, and those that are held out: at random, the same in every run.

    Where it can be, each class is in both parts if it is in several items, and in the first if it
    is in one. For that at most a quarter of the items is held out, or one; where that is not enough
    for all classes, frequent ones come first.

    Args:
        items: at least two.
        classes: of each item.

    Raises:
        UserError: there is one item.
    """
    if len(items) < 2:
        raise UserError("There is one image: at least one to train on and one to test are needed.")
    order = random.Random(0).sample(range(len(items)), len(items))
    having: dict[Hashable, list[int]] = {}
    for index in order:
        for label in classes[index]:
            having.setdefault(label, []).append(index)
    left = Counter({label: len(found) for label, found in having.items()})  # to train on
    held_out: set[int] = set()

    def hold_out_one(candidates: Iterable[int]) -> None:
        """The first of the candidates whose classes are left in others, if there is one."""
        for index in candidates:
            if index not in held_out and all(left[label] > 1 for label in classes[index]):
                held_out.add(index)
                left.subtract(classes[index])
                return

    most = max(int(MOST * len(items)), 1)
    by_choice = sorted(having.values(), key=len)  # rare classes have the least
    # So many classes take no more items than that; the rarer ones take what is left.
    for found in by_choice[-most:] + by_choice[:-most]:
        if held_out.isdisjoint(found) and len(held_out) < most:
            hold_out_one(found)
    remaining = iter(order)
    for _ in range(len(held_out), max(round(SHARE * len(items)), 1)):
        hold_out_one(remaining)
    held_out = held_out or {order[0]}
    parts = [i for i in range(len(items)) if i not in held_out], sorted(held_out)
    return tuple([items[i] for i in part] for part in parts)


def _in_words(parts: tuple[list[Any], list[Any]]) -> str:
    return (
        f"{len(parts[0])} images to train on, {len(parts[1])} held out at random, to validate; "
        "where it can be, a class of several images is in both. If some images are nearly the "
        "same, such as frames of a video, do it by hand: keep these in one part"
    )
