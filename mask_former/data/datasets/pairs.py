"""Images and label maps that belong together, by their names."""

import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from detectron2.utils.file_io import PathManager

from mask_former.errors import MissingFileError, UserError, listed

logger = logging.getLogger(__name__)

_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")
_LOSSY = (".jpg", ".jpeg", ".jp2", ".webp")


def find_pairs(
    image_root: str,
    sem_seg_root: str,
    image_suffix: str = "",
    label_suffix: str = "",
    image_list: str | None = None,
) -> list[tuple[str, str]]:
    """The images and label maps that have one path below their folders, but for the suffix.

    Unlike Detectron2's `load_sem_seg`, which pairs files by their order where there are as many
    label maps as images, it never pairs two of different names. What has no partner is left out,
    with a warning; but every image of a list needs its label map.

    Args:
        image_root, sem_seg_root: the folders. Labels may lie among the images, or in a folder in
            theirs.
        image_suffix, label_suffix: how the names end. Empty: in the suffix of a picture, of label
            maps a lossless one.
        image_list: a text file of the images to take, one a line. None: all.

    Returns:
        Image and label map of each pair, in the order of their names.

    Raises:
        FileNotFoundError: there is no pair, or none for an image of the list.
        UserError: several images or label maps have one name; the label maps are lossy.
    """
    files = list(find_files(sem_seg_root))
    labels = _by_name(files, sem_seg_root, (label_suffix,) if label_suffix else _LOSSLESS)
    if Path(image_root) != Path(sem_seg_root):
        files = list(find_files(image_root))
        if Path(image_root) in Path(sem_seg_root).parents:
            files = [f for f in files if Path(sem_seg_root) not in Path(f).parents]
    elif label_suffix:
        files = sorted(set(files) - set(labels.values()))
    images = _by_name(files, image_root, (image_suffix,) if image_suffix else (*_LOSSLESS, *_LOSSY))
    if image_list is not None:
        images = _listed_images(images, image_list)
    pairs = sorted(images.keys() & labels.keys())
    if not label_suffix and len(pairs) < len(images):
        _refuse_lossy(images, sem_seg_root)
    if not pairs:
        raise MissingFileError(
            f"{image_root} (*{image_suffix}, {len(images)} files) and {sem_seg_root} "
            f"(*{label_suffix}, {len(labels)} files) have no file of the same name: an image and "
            "its label map differ in the suffix only (IMAGE_SUFFIX, LABEL_SUFFIX), as a.jpg and "
            "a.png."
        )
    if image_list is not None:
        if lonely := [name for name in images if name not in labels]:
            raise MissingFileError(
                f"{len(lonely)} of the {len(images)} images that {image_list} names have no label "
                f"map in {sem_seg_root} (*{label_suffix}): {listed(lonely, 3)}. Complete the label "
                "maps, or take the images off the list."
            )
        labels = {name: labels[name] for name in pairs}  # the others are left out on purpose
    for what, found in (("images", images), ("label maps", labels)):
        if lonely := sorted(found.keys() - set(pairs)):
            logger.warning(
                "%s: %d %s are left out, since they have no partner of the same name: %s",
                image_root,
                len(lonely),
                what,
                listed(lonely, 5),
            )
    return [(images[name], labels[name]) for name in pairs]


def find_files(root: str) -> Iterator[str]:
    """The files in a folder, and in its subfolders if it is local; hidden ones are left out."""
    if "://" in root:
        yield from (f"{root}/{name}" for name in PathManager.ls(root))
        return
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (os.path.join(folder, n) for n in sorted(names) if not n.startswith("."))


def _by_name(files: Collection[str], root: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The files that end in one of the suffixes, by their path below `root` without it."""
    found: dict[str, str] = {}
    for file in files:
        path = _below(root, file)
        suffix = next((s for s in suffixes if path.lower().endswith(s.lower())), None)
        if suffix is None:
            continue
        name = path[: -len(suffix)].rstrip(".")
        if name in found:
            raise UserError(
                f"{found[name]} and {file} have one name but for the suffix. Say which suffix "
                "images have, and which label maps (IMAGE_SUFFIX, LABEL_SUFFIX)."
            )
        found[name] = file
    return found


def _listed_images(images: dict[str, str], image_list: str) -> dict[str, str]:
    """The images that a text file names, with or without suffix."""
    with PathManager.open(image_list, "r") as file:
        lines = [line.strip() for line in file if line.strip()]
    names = [line if line in images else os.path.splitext(line)[0] for line in lines]
    if missing := [line for line, name in zip(lines, names, strict=True) if name not in images]:
        raise MissingFileError(
            f"{image_list} names {len(missing)} of {len(lines)} images that are not there: "
            f"{listed(missing, 3)}. A line is the path of an image below IMAGES, such as "
            f"{next(iter(images), 'photo')}."
        )
    return {name: images[name] for name in names}


def _below(root: str, file: str) -> str:
    return file.removeprefix(root).lstrip("/" + os.sep)


def _refuse_lossy(images: dict[str, str], sem_seg_root: str) -> None:
    files = set(find_files(sem_seg_root)) - set(images.values())
    lossy = [file for file in files if file.lower().endswith(_LOSSY)]
    lossy = [file for file in lossy if os.path.splitext(_below(sem_seg_root, file))[0] in images]
    if lossy:
        raise UserError(
            f"{len(lossy)} label maps are JPEG, or another lossy format, which changes labels at "
            f"their borders: {listed(sorted(lossy), 3)}. Make them again, as PNG."
        )
