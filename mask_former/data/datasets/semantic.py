"""Data sets of two folders, images and semantic label maps."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from mask_former.data.datasets.catalog import IGNORE_LABEL, Records, register_lazily
from mask_former.errors import MissingFileError, listed

logger = logging.getLogger(__name__)


def register_semantic(
    name: str,
    *,
    image_root: str | Path,
    sem_seg_root: str | Path,
    classes: Sequence[str] | None = None,
    colors: Sequence[Sequence[int]] | None = None,
    read_metadata: Callable[[], dict[str, Any]] = dict,
    ignore_label: int | None = IGNORE_LABEL,
    image_suffix: str = "jpg",
    label_suffix: str = "png",
    prepare_command: str | None = None,
    **known: Any,
) -> None:
    """Register a data set of images and label maps with Detectron2, without touching the disk.

    A label map has the name of its image but for the suffix, and holds the contiguous id of the
    class of each pixel.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        image_root: folder of the images, without subfolders.
        sem_seg_root: folder of the label maps, of 8 or 16 bits.
        classes: names by contiguous id. None: they are in `read_metadata`.
        colors: RGB of each class, in 0..255.
        read_metadata: reads `stuff_classes`, and whatever else is not given here, from the data
            set's own files on first access.
        ignore_label: label of pixels without a class. None: it is in `read_metadata`.
        image_suffix, label_suffix: of the files.
        prepare_command: the command that prepares the files, for errors about missing ones.
        known: further metadata.
    """
    register_lazily(
        name,
        partial(load_semantic, str(sem_seg_root), str(image_root), label_suffix, image_suffix),
        read_metadata,
        evaluator_type="sem_seg",
        image_root=image_root,
        sem_seg_root=sem_seg_root,
        stuff_classes=classes,
        stuff_colors=colors,
        ignore_label=ignore_label,
        prepare_command=prepare_command,
        **known,
    )


def load_semantic(
    sem_seg_root: str, image_root: str, label_suffix: str, image_suffix: str
) -> Records:
    """The records of images and label maps that have one name but for the suffix, by name.

    Unlike Detectron2's `load_sem_seg`, which pairs files by their order where there are as many
    label maps as images, it never pairs two of different names. What has no partner is left out,
    with a warning.

    Raises:
        FileNotFoundError: there is no pair.
    """
    images, labels = (
        {
            name[: -len(suffix)].rstrip("."): os.path.join(folder, name)
            for name in PathManager.ls(folder)
            if name.endswith(suffix) and not name.startswith(".")
        }
        for folder, suffix in ((image_root, image_suffix), (sem_seg_root, label_suffix))
    )
    pairs = sorted(images.keys() & labels.keys())
    if not pairs:
        raise MissingFileError(
            f"{image_root} (*{image_suffix}, {len(images)} files) and {sem_seg_root} "
            f"(*{label_suffix}, {len(labels)} files) have no file of the same name: an image and "
            "its label map differ in the suffix only."
        )
    for what, alone in (("images", images), ("label maps", labels)):
        if lonely := sorted(alone.keys() - set(pairs)):
            logger.warning(
                "%s: %d %s are left out, since they have no partner of the same name: %s",
                image_root,
                len(lonely),
                what,
                listed(lonely, 5),
            )
    return [{"file_name": images[name], "sem_seg_file_name": labels[name]} for name in pairs]
