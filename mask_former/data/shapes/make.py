"""The synthetic data set "shapes", generated from a seed in COCO's and ADE20K's formats.

Small enough to train on without a GPU, yet with what makes segmentation hard: texture, light,
noise, occlusion, touching objects of one class, crowds, unlabelled regions. `scene` composes the
images, `render` paints them.
"""

import json
import os
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mask_former.data.coco_format import (
    AnnotatedImage,
    encode_ids,
    image_entry,
    segmentation,
    shape_info,
    write_annotations,
)
from mask_former.data.datasets.catalog import IGNORE_LABEL, datasets_root
from mask_former.data.datasets.preparing import run_jobs
from mask_former.data.shapes.scene import Sample, make_sample, make_video
from mask_former.data.writing import write_image, write_json
from mask_former.errors import ExistingFileError, UnwritableFileError, UserError

# Raise this when the same seed would give other files.
VERSION = 6
SPLITS = ("train", "val")
VIDEO_FRAMES = 72
VIDEO_FPS = 24
VIDEO_NAME = "video.mp4"
MANIFEST = "manifest.json"
MAX_WORKERS = 8

# In COCO's form; the position in the list is the contiguous class id.
CATEGORIES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("shapes.json").read_text(encoding="utf-8")
)["categories"]


def split_paths(folder: Path, split: str) -> dict[str, Path]:
    """The locations of a split's files, by the names of `register_panoptic`'s arguments."""
    return {
        "image_root": folder / split,
        "panoptic_root": folder / f"panoptic_{split}",
        "panoptic_json": folder / "annotations" / f"panoptic_{split}.json",
        "json_file": folder / "annotations" / f"instances_{split}.json",
        "sem_seg_root": folder / f"sem_seg_{split}",
    }


def make_shapes(
    root: str | Path | None = None,
    *,
    num_train: int = 2000,
    num_val: int = 200,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Make the data set in `root`/shapes, unless it exists; takes under a minute.

    The files depend only on the seed and the numbers of images. They are made in a temporary
    folder beside `root`/shapes, so that an interrupted run leaves nothing that looks complete.

    Args:
        root: the folder of all data sets; None: `datasets_root()`.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        seed: of everything random, not negative.
        workers: number of processes; None: one per CPU, at most 8.

    Returns:
        `root`/shapes.

    Raises:
        UserError: a number is out of range.
        FileExistsError: `root`/shapes was not made by this function.
    """
    if num_train < 1 or num_val < 1 or seed < 0:
        raise UserError(
            "num_train and num_val must be at least 1 and seed at least 0, "
            f"got {num_train}, {num_val} and {seed}"
        )
    root = datasets_root() if root is None else Path(root)
    folder = root / "shapes"
    manifest = {"version": VERSION, "seed": seed, "train": num_train, "val": num_val}
    if _read_manifest(folder) == manifest:
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shapes-", dir=root) as scratch:
        made = Path(scratch) / "new"
        if workers is None:
            workers = min(os.cpu_count() or 1, MAX_WORKERS)
        _write_all(made, manifest, workers)
        if _read_manifest(folder) == manifest:
            return folder  # another process was faster
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)
    return folder


def _read_manifest(folder: Path) -> dict[str, int] | None:
    """The manifest of `folder`; None if there is no such folder."""
    if not folder.exists():
        return None
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExistingFileError(
            f"{folder} was not made by make_shapes, because {path} cannot be read ({error}). "
            "Move it away, or choose another root."
        ) from error


def _write_all(folder: Path, manifest: dict[str, int], workers: int) -> None:
    jobs = []
    for split in SPLITS:
        jobs += [(split, image_id) for image_id in range(1, manifest[split] + 1)]
    results = run_jobs(partial(_write_sample, folder, manifest["seed"]), jobs, workers)
    bar = tqdm(results, total=len(jobs), desc="Making the shapes data set", unit="image")
    results = iter(list(bar))
    for split in SPLITS:
        paths = split_paths(folder, split)
        write_annotations(
            paths["panoptic_json"],
            paths["json_file"],
            list(islice(results, manifest[split])),
            CATEGORIES,
            info={"description": "shapes, a synthetic data set", "version": str(VERSION)},
        )
    _write_video(folder / VIDEO_NAME, np.random.default_rng([manifest["seed"], len(SPLITS)]))
    write_json(folder / MANIFEST, manifest)


def _write_sample(folder: Path, seed: int, job: tuple[str, int]) -> AnnotatedImage:
    """Write one image with its label images."""
    split, image_id = job
    rng = np.random.default_rng([seed, SPLITS.index(split), image_id])
    sample = make_sample(rng)
    stem = f"{image_id:06d}"
    paths = split_paths(folder, split)
    segments = _segments(sample, rng)
    # The id and the class of segment i+1 of the segment map.
    ids = np.array([0] + [segment["id"] for segment in segments])
    contiguous = {category["name"]: index for index, category in enumerate(CATEGORIES)}
    classes = [IGNORE_LABEL] + [contiguous[segment.name] for segment in sample.segments]
    classes = np.array(classes, dtype=np.uint8)
    write_image(paths["image_root"] / f"{stem}.jpg", sample.image)
    write_image(paths["panoptic_root"] / f"{stem}.png", encode_ids(ids[sample.segment_map]))
    write_image(paths["sem_seg_root"] / f"{stem}.png", classes[sample.segment_map])
    image = image_entry(image_id, f"{stem}.jpg", sample.segment_map.shape)
    return AnnotatedImage(image, f"{stem}.png", segments)


def _segments(sample: Sample, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The segments of a sample, in their order, as in `AnnotatedImage`."""
    categories = {category["name"]: category for category in CATEGORIES}
    segments: list[dict[str, Any]] = []
    taken = {0}
    for index, segment in enumerate(sample.segments, start=1):
        category = categories[segment.name]
        # As in COCO, the id is a colour near that of the class: the PNG can be looked at.
        segment_id = 0
        while segment_id in taken:
            color = np.clip(np.array(category["color"]) + rng.integers(-25, 26, 3), 0, 255)
            segment_id = int(color @ (1, 256, 256**2))
        taken.add(segment_id)
        mask = sample.segment_map == index
        info = {"id": segment_id, "category_id": category["id"], "iscrowd": int(segment.iscrowd)}
        info.update(shape_info(mask))
        if category["isthing"]:
            info["segmentation"] = segmentation(mask, segment.iscrowd)
        segments.append(info)
    return segments


def _write_video(path: Path, rng: np.random.Generator) -> None:
    writer = None
    for frame in make_video(rng, VIDEO_FRAMES):
        if writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(path), codec, VIDEO_FPS, frame.shape[1::-1])
            if not writer.isOpened():
                raise UnwritableFileError(
                    f"{path} cannot be written: this OpenCV has no encoder for mp4v"
                )
        writer.write(frame[..., ::-1])
    writer.release()
