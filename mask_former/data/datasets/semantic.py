"""Data sets of images and semantic label maps."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from mask_former.data.datasets.catalog import Records, register_lazily
from mask_former.data.datasets.class_file import Classes, completed, read_class_file
from mask_former.data.datasets.pairs import find_files, find_pairs
from mask_former.data.datasets.semantic_classes import semantic_metadata
from mask_former.data.reading import read_label_image
from mask_former.errors import UserError, prefixed


def register_semantic(
    name: str,
    *,
    image_root: str | Path,
    sem_seg_root: str | Path,
    classes: Sequence[str] = (),
    class_file: str | Path | None = None,
    colors: Sequence[Sequence[int]] = (),
    label_values: Sequence[int] = (),
    ignore: Sequence[Any] = (),
    ignore_label: int | None = None,
    encoding: str = "auto",
    read_metadata: Callable[[], dict[str, Any]] | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    image_list: str | Path | None = None,
    prepare_command: str | None = None,
    **known: Any,
) -> None:
    """Register a data set of images and label maps with Detectron2, without touching the disk.

    A label map has the path of its image, below its folder, but for the suffix.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        image_root: folder of the images, with subfolders.
        sem_seg_root: folder of the label maps, in a lossless format.
        classes: their names, in the order of their values; those in `ignore` are no classes of the
            model.
        class_file: names them instead, see `class_file.read_class_file`.
        colors: RGB of each class, in 0..255.
        label_values: the value of each class in the label maps. Empty: 0, 1, 2, ... without those
            that are ignored.
        ignore: values, colours and names of classes that are ignored. `ignore_label` is, too, where
            it is no class's value.
        ignore_label: the label that ignored pixels get. None: 255, or with more classes 65535.
        encoding: "auto", "values", "colors" or "binary", see `custom.custom_dataset`.
        read_metadata: reads `stuff_classes`, and maybe `stuff_colors` and `ignore_label`, on first
            access, from the files of a data set whose label maps hold contiguous ids.
        image_suffix, label_suffix: how the names of files end. Empty: in the suffix of a picture,
            of label maps a lossless one.
        image_list: a text file of the images that belong to the data set, one a line. None: all.
        prepare_command: the command that prepares the files, for errors about missing ones.
        known: further metadata.

    Raises:
        UserError: classes, colours, values and what is ignored contradict each other.
    """
    if read_metadata is None:
        given = Classes(classes, colors, label_values)
        describe = partial(_metadata, name, given, class_file, ignore, encoding, ignore_label)
        if class_file is None:
            known = {**describe(), **known}
            describe = dict
        read_metadata = partial(_with_colors, name, describe, label_suffix)
    elif ignore_label is not None:
        known["ignore_label"] = ignore_label
    register_lazily(
        name,
        partial(load_semantic, name, image_suffix, label_suffix),
        read_metadata,
        evaluator_type="sem_seg",
        image_root=image_root,
        sem_seg_root=sem_seg_root,
        image_list=image_list,
        class_file=class_file,
        prepare_command=prepare_command,
        **known,
    )


def _metadata(
    name: str,
    given: Classes,
    class_file: str | Path | None,
    ignore: Sequence[Any],
    encoding: str,
    ignore_label: int | None,
) -> dict[str, Any]:
    with prefixed(f"Data set {name!r}: "):
        if class_file is not None:
            given = completed(given, read_class_file(class_file), class_file)
        return semantic_metadata(given, ignore, encoding, ignore_label)


def _with_colors(
    name: str, describe: Callable[[], dict[str, Any]], label_suffix: str
) -> dict[str, Any]:
    """What `describe` returns and, where no colours are known, those of the label maps' palette."""
    found = describe()
    known = {**vars(MetadataCatalog.get(name)), **found}
    if known.get("stuff_colors"):
        return found
    values: dict[int, int] = {}
    for value, label in known["label_encoding"].values.items():
        values.setdefault(label, value)
    palette = _first_palette(known["sem_seg_root"], label_suffix)
    indices = [values[label] for label in range(len(known["stuff_classes"]))]
    if palette is None or max(indices) >= len(palette):
        return found
    colors = palette[indices].tolist()
    are_different = len(set(map(tuple, colors))) == len(colors)
    return {**found, "stuff_colors": colors} if are_different else found


def _first_palette(sem_seg_root: str, label_suffix: str) -> np.ndarray | None:
    """The palette of the first label map, or None."""
    files = (file for file in find_files(sem_seg_root) if file.endswith(label_suffix))
    file = next(files, None)
    try:
        return None if file is None else read_label_image(file).palette
    except UserError:  # it may be another file; the label maps themselves are checked
        return None


def load_semantic(name: str, image_suffix: str = "", label_suffix: str = "") -> Records:
    """The records of a data set of `register_semantic`, in Detectron2's format, by name.

    Raises:
        FileNotFoundError, UserError: as `find_pairs`.
    """
    metadata = MetadataCatalog.get(name)
    pairs = find_pairs(
        metadata.image_root,
        metadata.sem_seg_root,
        image_suffix,
        label_suffix,
        metadata.get("image_list"),
    )
    encoding = metadata.get("label_encoding")
    common = {} if encoding is None or encoding.is_plain else {"label_encoding": encoding}
    return [{"file_name": image, "sem_seg_file_name": labels, **common} for image, labels in pairs]
