"""What DATASETS.CUSTOM has to say about images and labels, found out by looking at them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mask_former.data.datasets.class_file import read_class_file
from mask_former.data.datasets.pairs import find_pairs
from mask_former.data.holding_out import SPLITS, hold_out_images, hold_out_json
from mask_former.data.json_files import entries, read_json
from mask_former.data.label_encoding import LabelImage
from mask_former.data.label_map import count_pixels
from mask_former.data.reading import read_label_image
from mask_former.errors import MissingFileError, UserError

# Label maps that are looked at to find out which values occur, and colours that may be classes.
_NUM_MAPS, _MOST_COLORS = 300, 256
_IGNORED = 255
_BACKGROUND = (
    "{0} is a class here; if it only says that nothing is annotated there, give --ignore {0}"
)


class Suggestion(NamedTuple):
    """A key of a config or, in its entry of DATASETS.CUSTOM, of a data set; its value, and why."""

    key: str
    value: Any
    why: str


def discover(
    images: str,
    labels: str,
    output: Path,
    *,
    classes: str = "",
    ignore: str = "",
    label_suffix: str = "",
    png: str = "",
) -> list[Suggestion]:
    """The keys of an entry of DATASETS.CUSTOM.

    Args:
        images: folder of the images. "{split}" in a path stands for train and val; it is found
            by itself where folders or files of these names are there.
        labels: folder of label maps, or a JSON of instances or panoptic segments.
        output: the config that is made. Where there is nothing to validate on, the lists or the
            JSON of the two parts are written beside it.
        classes: a file of the classes, or their names, separated by commas.
        ignore: names of classes, separated by commas, that only say that nothing is annotated.
        label_suffix: how the names of label maps end, where those of images do not.
        png: panoptic: the folder of the PNG. Empty: beside the JSON, of its name.

    Raises:
        FileNotFoundError: something is not there.
        UserError: it is none of the formats.
    """
    images, labels, png = _with_splits(images, labels, png)
    for path in (images, labels):
        if not os.path.exists(_of_split(path)):
            raise MissingFileError(f"{_of_split(path)} does not exist.")
    is_json = labels.endswith((".json", ".json.gz"))
    if is_json and ignore:
        raise UserError("--ignore is for label maps; in a JSON, what nothing covers is ignored.")
    if is_json:
        found = _of_json(images, labels, png)
    else:
        found = _of_maps(images, labels, classes, label_suffix)
        if ignore:
            names = [name.strip() for name in ignore.split(",")]
            found.append(Suggestion("IGNORE", names, "neither learned nor counted"))
    if "{split}" in images + labels:
        found.insert(
            1, Suggestion("SPLITS", list(SPLITS), "each is a data set, NAME_train, NAME_val")
        )
        return found
    if is_json:
        files, why = hold_out_json(labels, output)
        found = [f._replace(value=files) if f.key == "JSON" else f for f in found]
    else:
        files, why = hold_out_images(images, labels, label_suffix, output)
        found.append(Suggestion("IMAGE_LIST", files, "the images of each part"))
    found.insert(1, Suggestion("SPLITS", list(SPLITS), why))
    return found


def _of_split(path: str, split: str = SPLITS[0]) -> str:
    return path.replace("{split}", split)


def _with_splits(images: str, labels: str, png: str) -> tuple[str, str, str]:
    """The paths with {split} in them, where train and val are there."""
    if "{split}" in images + labels:
        return images, labels, png
    inside, named = (
        [path and make(path) for path in (images, labels, png)]
        for make in (lambda path: os.path.join(path, "{split}"), _split_named)
    )
    candidates = [
        tuple(inside),
        tuple(named),
        (inside[0], *named[1:]),  # a JSON for each folder of images
        (images, *named[1:]),  # a JSON for each part of one folder
    ]
    for paths in candidates:
        if "{split}" in paths[1] and all(
            os.path.exists(_of_split(path, split)) for path in paths if path for split in SPLITS
        ):
            return paths
    return images, labels, png


def _split_named(path: str) -> str:
    """With {split} in place of the last "train" in a path."""
    before, found, after = path.rpartition(SPLITS[0])
    return f"{before}{{split}}{after}" if found else path


def _of_json(images: str, labels: str, png: str) -> list[Suggestion]:
    path = _of_split(labels)
    annotations = entries(read_json(path), "annotations", path, ())
    if not annotations:
        raise UserError(f"{path} holds no annotations.")
    if "segments_info" not in annotations[0]:
        return [
            Suggestion("FORMAT", "instances", "the JSON has a mask for each annotation"),
            Suggestion("IMAGES", images, ""),
            Suggestion("JSON", labels, ""),
        ]
    beside = Path(labels.removesuffix(".gz").removesuffix(".json"))
    places = [Path(png)] if png else [beside, beside.parent.parent / beside.name]
    png = next((str(p) for p in places if os.path.isdir(_of_split(str(p)))), "")
    if not png:
        raise MissingFileError(
            f"{path} is a panoptic JSON, but the folder of its PNG is not there: "
            f"{_of_split(str(places[0]))}. Name it with --png."
        )
    found = [
        Suggestion("FORMAT", "panoptic", "the JSON has the segments of PNG"),
        Suggestion("IMAGES", images, ""),
        Suggestion("LABELS", png, "the PNG of the segments"),
        Suggestion("JSON", labels, ""),
    ]
    categories = entries(read_json(path), "categories", path, ("name",))
    if not all("isthing" in category for category in categories):
        names = [category["name"] for category in categories]
        why = "the JSON does not say which classes are countable things: leave out what is stuff"
        found.append(Suggestion("THINGS", names, why))
    return found


def _of_maps(images: str, labels: str, classes: str, label_suffix: str) -> list[Suggestion]:
    found = [
        Suggestion("FORMAT", "semantic", "a label map for each image"),
        Suggestion("IMAGES", images, ""),
        Suggestion("LABELS", labels, ""),
    ]
    if label_suffix:
        found.append(
            Suggestion(
                "LABEL_SUFFIX", label_suffix, f"of photo.jpg the label map is photo{label_suffix}"
            )
        )
    pairs = find_pairs(_of_split(images), _of_split(labels), label_suffix=label_suffix)
    step = -(-len(pairs) // _NUM_MAPS)
    maps = [read_label_image(label_map) for _, label_map in pairs[::step]]
    seen = f"in {len(maps)} of {len(pairs)} label maps"
    names = [name.strip() for name in classes.split(",")] if "," in classes else []
    if classes and not names and not Path(classes).is_file():
        raise UserError(
            f"--classes: there is no file {classes!r}. Names are separated by commas: NAME,NAME"
        )
    class_file = classes if classes and not names else _class_file(labels)
    if class_file:
        known = list(read_class_file(class_file).names)
        if names and names != known:
            raise UserError(
                f"--classes names {names}, but {class_file} names {known}: leave --classes out, or "
                "the file."
            )
        why = f"names {len(known)} classes"
        if "background" in known:
            why += f". {_BACKGROUND.format('background')}"
        return [*found, Suggestion("CLASS_FILE", class_file, why)]
    if any(pixels.ndim == 3 for pixels, _ in maps):
        return [*found, *_of_colors(maps, names, seen)]
    return [*found, *_of_values(maps, names, seen)]


def _class_file(labels: str) -> str:
    """A file of classes that lies with the labels, or beside them."""
    folder = Path(labels.split("{split}")[0])
    for place in (folder, folder.parent):
        for name in ("labelmap.txt", "classes.txt", "classes.json", "labels.txt"):
            if (place / name).is_file():
                return str(place / name)
    return ""


def _of_values(maps: Sequence[LabelImage], names: list[str], seen: str) -> list[Suggestion]:
    pixels: Counter[int] = Counter()
    for image in maps:
        labels, counts = count_pixels(image.pixels.astype(np.int64))
        pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    total = pixels.total()
    if set(pixels) == {0, _IGNORED} or (len(names) == 2 and set(pixels) <= {0, _IGNORED}):
        why = f"{seen} there are 0 ({pixels[0] / total:.0%} of the pixels) and 255, two classes"
        return [
            Suggestion("ENCODING", "binary", why),
            Suggestion("CLASSES", names or ["background", "foreground"], _rename(names)),
        ]
    values = sorted(value for value in pixels if value != _IGNORED)
    if not names and not values:
        raise UserError(
            f"{seen} there is nothing but 255, which is no class: name the classes with --classes."
        )
    shares = ", ".join(f"{v}: {pixels[v] / total:.1%}" for v in values[:12])
    why = f"the values {seen}, with their share of the pixels: {shares}"
    if _IGNORED in pixels:
        why += f". 255 is ignored: {pixels[_IGNORED] / total:.1%}"
    if names and len(names) != len(values):
        values = list(range(len(names)))
    elif not names and values[-1] < 2 * len(values):
        values = list(range(values[-1] + 1))
    classes = names or [f"class_{value}" for value in values]
    if 0 in pixels and not names:
        why += f". {_BACKGROUND.format(classes[0])}"
    found = [Suggestion("CLASSES", classes, f"{why}. {_rename(names)}".rstrip(" ."))]
    if values != list(range(len(values))):
        found.append(Suggestion("LABEL_VALUES", values, "of the classes, in their order"))
    return found


def _of_colors(maps: Sequence[LabelImage], names: list[str], seen: str) -> list[Suggestion]:
    pixels: Counter[tuple[int, ...]] = Counter()
    for image in maps:
        colors, counts = np.unique(image.pixels[..., :3].reshape(-1, 3), axis=0, return_counts=True)
        pixels.update(dict(zip(map(tuple, colors.tolist()), counts.tolist(), strict=True)))
        if len(pixels) > _MOST_COLORS:
            raise UserError(
                f"The labels have more than {_MOST_COLORS} colours: they are no label maps, or "
                "were saved with loss."
            )
    colors = [list(color) for color in sorted(pixels)]
    if names:
        raise UserError(
            f"--classes names {len(names)} classes, and there are {len(colors)} colours, {colors}, "
            "but nothing says which class has which: write a text file with a line "
            "NAME:RED,GREEN,BLUE for each, as CVAT's labelmap.txt has, and give that to --classes."
        )
    classes = ["color_{}_{}_{}".format(*color) for color in colors]
    return [
        Suggestion("CLASSES", classes, f"the colours {seen}, sorted. {_rename(names)}"),
        Suggestion("COLORS", colors, "of the classes, in their order"),
    ]


def _rename(names: list[str]) -> str:
    return "" if names else "Nobody told their names: rename them"
