"""ADE20K-Full: the 847 classes of the open vocabulary that training and validation images share.

The download's index names some 3,700 classes. The paper evaluates those that occur both in
training and in validation images, here in descending order of their training pixels.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mask_former.checkpoint.safe_pickle import NUMBERS_AND_TEXTS, RefusedError, read_pickle
from mask_former.data.datasets.preparing import (
    build_folder,
    parallel_map,
    require_files,
    require_path,
)
from mask_former.data.datasets.semantic import register_semantic
from mask_former.data.label_map import count_pixels
from mask_former.data.reading import explained_read_errors, read_lossless
from mask_former.data.writing import write_image
from mask_former.errors import UserError, listed

FOLDER = "ADE20K_2021_17_01"
SPLITS = {"train": "training", "val": "validation"}
INDEX_FILE = "index_ade20k.pkl"
CLASSES_FILE = "classes_detectron2.txt"
IGNORE_LABEL = 65535
SHORT_SIDE = 512

_JPEG_QUALITY = 95
_JOURNAL = "class_counts.partial.jsonl"


def register_ade20k_full(root: Path) -> None:
    """Register ade20k_full_sem_seg_{train,val} below `root`."""
    folder = root / FOLDER
    for split, long_split in SPLITS.items():
        register_semantic(
            f"ade20k_full_sem_seg_{split}",
            image_root=folder / "images_detectron2" / long_split,
            sem_seg_root=folder / "annotations_detectron2" / long_split,
            read_metadata=partial(_read_metadata, folder / CLASSES_FILE),
            ignore_label=IGNORE_LABEL,
            prepare_command="python -m tools.prepare_datasets ade20k_full",
        )


def _read_metadata(classes_file: Path) -> dict[str, list[str]]:
    return {"stuff_classes": read_class_list(classes_file)}


def read_class_list(path: Path) -> list[str]:
    """Class names, one a line, in the order of their labels.

    Raises:
        UserError: a name occurs twice, or there is none.
    """
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise UserError(f"{path} names no class; write one a line")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path} names classes twice: {listed(twice)}")
    return names


def prepare_ade20k_full(root: Path, classes_file: Path | None = None) -> Path:
    """Make images whose short side has at most 512 pixels, and 16-bit labels of that size.

    Args:
        root: the folder of all data sets.
        classes_file: the classes and their order, one name a line, as the index writes them; for
            weights that were trained with another list. None: derived from the labels.

    Raises:
        FileNotFoundError, UserError: the download is incomplete or broken; a class is unknown.
    """
    folder = require_path(root / FOLDER)
    index = read_index(folder)
    sources = index.sources(root)
    # The converted files have the names of the images, without their folders.
    names = Counter(path.name for split in sources.values() for path in split)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"{folder / INDEX_FILE} has several images named {listed(twice)}")
    made = folder / CLASSES_FILE
    if classes_file is not None:
        classes = read_class_list(classes_file)
    else:
        classes = read_class_list(made) if made.exists() else derive_classes(folder, index, sources)
    if unknown := set(classes) - set(index.class_names):
        raise UserError(
            f"{classes_file or made}: the index has no classes {listed(sorted(unknown))}"
        )
    labels = folder / "annotations_detectron2"
    if made.exists() and read_class_list(made) != classes and labels.exists():
        raise UserError(
            f"{labels} has been made with other classes, those of {made}. Remove the folder and "
            "the file to make it anew."
        )
    made.write_text("\n".join(classes) + "\n", encoding="utf-8")
    table = label_table(index.class_names, classes)
    for split in SPLITS.values():
        images = {path.name: path for path in sources[split]}
        build_folder(
            folder / "images_detectron2" / split,
            images,
            _write_image,
            description=f"ADE20K full, {split}, images",
        )
        build_folder(
            labels / split,
            {Path(name).with_suffix(".png").name: path for name, path in images.items()},
            partial(_write_labels, table),
            description=f"ADE20K full, {split}, labels",
            settings=classes,
        )
    return folder


class Index(NamedTuple):
    """The content of index_ade20k.pkl: all class names, the paths of all images, and the objects in
    each, (classes, images)."""

    class_names: list[str]
    images: list[Path]
    presence: np.ndarray

    def sources(self, root: Path) -> dict[str, list[Path]]:
        """The image files of each split; all of them and their labels must exist."""
        files = [str(file) for path in self.images for file in (path, label_file(path))]
        require_files(root, files)
        return {
            split: [root / path for path in self.images if split in path.parts]
            for split in SPLITS.values()
        }


def read_index(folder: Path) -> Index:
    """Read the index without running anything in it.

    Raises:
        FileNotFoundError, UserError: it is missing or not as expected.
    """
    path = require_path(folder / INDEX_FILE)
    try:
        content = read_pickle(str(path), arrays=NUMBERS_AND_TEXTS)
        index = Index(
            [str(name).strip() for name in content["objectnames"]],
            [
                Path(str(folder_), str(name))
                for folder_, name in zip(content["folder"], content["filename"], strict=True)
            ],
            np.asarray(content["objectPresence"]),
        )
    except RefusedError as error:
        raise UserError(f"{path} is not read: it refers to {error}") from None
    except Exception as error:  # a broken pickle fails in any way
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Download it again."
        ) from error
    if index.presence.shape != (len(index.class_names), len(index.images)):
        raise UserError(
            f"{path}: objectPresence has the shape {index.presence.shape}, but there are "
            f"{len(index.class_names)} objectnames and {len(index.images)} images"
        )
    return index


def label_file(image: Path) -> Path:
    return image.with_name(f"{image.stem}_seg.png")


def read_class_map(path: Path) -> np.ndarray:
    """Class of each pixel, counted from 1 in the index, 0 for none: int32 (H, W)."""
    image = read_lossless(path)
    if image.ndim != 3 or image.dtype != np.uint8:
        raise UserError(f"{path} is {image.dtype} {image.shape}, not an RGB image")
    # Red has a multiple of 10 for every 256 classes, blue tells instances apart.
    return image[..., 0].astype(np.int32) // 10 * 256 + image[..., 1]


def derive_classes(folder: Path, index: Index, sources: Mapping[str, Sequence[Path]]) -> list[str]:
    """The classes that have pixels both in training and in validation images.

    The one with most pixels in the training images, at their original size, comes first.

    Raises:
        UserError: the labels are not those of the index.
    """
    journal = folder / _JOURNAL
    counts = parallel_map(
        _count_classes,
        {path.name: path for split in sources.values() for path in split},
        journal=journal,
        description="ADE20K full, counting pixels",
    )
    _check_presence(index, counts)
    pixels = {split: Counter() for split in sources}
    for split, paths in sources.items():
        for path in paths:
            for class_, count in counts[path.name]:
                pixels[split][index.class_names[class_ - 1]] += count
    training, validation = (pixels[split] for split in SPLITS.values())
    journal.unlink()
    shared = training.keys() & validation.keys() - {""}
    return sorted(shared, key=lambda name: (-training[name], name))


def _count_classes(image: Path) -> list[tuple[int, int]]:
    """Number of pixels of each class of an image."""
    classes, counts = count_pixels(read_class_map(label_file(image)))
    return [(c, n) for c, n in zip(classes.tolist(), counts.tolist(), strict=True) if c > 0]


def _check_presence(index: Index, counts: Mapping[str, Iterable[tuple[int, int]]]) -> None:
    """Compare the classes found in the images with the index, lest they be shifted by one."""
    agree = [
        0 < class_ <= len(index.class_names) and index.presence[class_ - 1, column] > 0
        for column, path in enumerate(index.images)
        for class_, _ in counts.get(path.name, ())
    ]
    if np.mean(agree or [False]) < 0.9:
        raise UserError(
            f"{INDEX_FILE} says of only {np.mean(agree or [False]):.0%} of the classes in the "
            "labels that their image shows them. Do index and images belong to one download?"
        )


def label_table(class_names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The new label, uint16, of each class number of the index; classes left out are ignored."""
    label_of = {name: label for label, name in enumerate(classes)}
    new = [label_of.get(name, IGNORE_LABEL) for name in class_names]
    return np.array([IGNORE_LABEL, *new], dtype=np.uint16)


def scaled_size(width: int, height: int) -> tuple[int, int]:
    """Width and height scaled down to a short side of at most 512."""
    short = max(min(width, height), SHORT_SIDE)
    return round(width * SHORT_SIDE / short), round(height * SHORT_SIDE / short)


def _write_image(source: Path, target: Path) -> None:
    with explained_read_errors(source), Image.open(source) as image:
        size = scaled_size(*image.size)
        if size == image.size:
            shutil.copyfile(source, target)
        else:
            scaled = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            scaled.save(target, quality=_JPEG_QUALITY)


def _write_labels(table: np.ndarray, image: Path, target: Path) -> None:
    source = label_file(image)
    classes = read_class_map(source)
    if classes.max() >= len(table):
        raise UserError(f"{source} holds the class {classes.max()}, but the index ends before")
    size = scaled_size(*classes.shape[::-1])
    scaled = Image.fromarray(classes).resize(size, Image.Resampling.NEAREST)
    write_image(target, table[np.array(scaled)])
