"""The data set "shapes": made from a seed, in COCO's and ADE20K's formats.

Small enough to train on without a GPU, yet with what makes segmentation hard: texture, light,
noise, occlusion, touching objects of one class, crowds, unlabelled regions. Nothing that reads it
knows that it is synthetic. `shapes_scene` composes the images, `shapes_render` paints them.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mask_former.data.coco_format import encode_ids, segmentation, shape_info
from mask_former.data.datasets.catalog import IGNORE_LABEL, datasets_root
from mask_former.data.datasets.preparing import run_jobs
from mask_former.data.shapes.scene import Sample, make_sample, make_video
from mask_former.errors import ExistingFileError, UserError

# Raise this when the same seed would give other files.
VERSION = 6
SPLITS = ("train", "val")
JPEG_QUALITY = 95
VIDEO_FRAMES = 72
VIDEO_FPS = 24
VIDEO_NAME = "video.mp4"
MANIFEST = "manifest.json"
MAX_WORKERS = 8

# In COCO's form; the position in the list is the contiguous class id.
CATEGORIES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("shapes.json").read_text(encoding="utf-8")
)["categories"]

_THING_IDS = {category["id"] for category in CATEGORIES if category["isthing"]}


def split_paths(folder: Path, split: str) -> dict[str, Path]:
    """Where the files of a split are, under the names of `register_panoptic`'s arguments."""
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
    """Make the data set in `root`/shapes, unless it is there already; takes under a minute.

    The files depend on the seed and the numbers of images alone. They are made in a temporary
    folder beside their place, so that an interrupted run leaves nothing that looks complete.

    Args:
        root: the folder of all data sets; None for `datasets_root()`.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        seed: of everything random, not negative.
        workers: number of processes; None for one per CPU, at most 8.

    Returns:
        `root`/shapes.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: the place is taken by something that this function did not make.
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
    """What `folder` was made with, None where there is no such folder."""
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
        for path in split_paths(folder, split).values():
            (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        jobs += [(split, image_id) for image_id in range(1, manifest[split] + 1)]
    results = iter(list(_run(partial(_write_sample, folder, manifest["seed"]), jobs, workers)))
    for split in SPLITS:
        _write_annotations(folder, split, [next(results) for _ in range(manifest[split])])
    _write_video(folder / VIDEO_NAME, np.random.default_rng([manifest["seed"], len(SPLITS)]))
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _run(work: partial, jobs: list, workers: int) -> Iterator[dict[str, Any]]:
    """The results of `work` on the jobs, in their order, with a progress bar."""
    bar = partial(tqdm, total=len(jobs), desc="Making the shapes data set", unit="image")
    yield from bar(run_jobs(work, jobs, workers))


def _write_sample(folder: Path, seed: int, job: tuple[str, int]) -> dict[str, Any]:
    """Write one image with its label images; returns its entries of the JSON files."""
    split, image_id = job
    rng = np.random.default_rng([seed, SPLITS.index(split), image_id])
    sample = make_sample(rng)
    stem = f"{image_id:06d}"
    paths = split_paths(folder, split)
    height, width = sample.segment_map.shape
    segments = _segments_info(sample, rng)
    # What stands for segment i+1 of the segment map in the label images.
    ids = np.array([0] + [segment["id"] for segment in segments])
    contiguous = {category["name"]: index for index, category in enumerate(CATEGORIES)}
    classes = np.array([IGNORE_LABEL] + [contiguous[segment.name] for segment in sample.segments])
    _write_image(paths["image_root"] / f"{stem}.jpg", sample.image)
    _write_image(paths["panoptic_root"] / f"{stem}.png", encode_ids(ids[sample.segment_map]))
    _write_image(paths["sem_seg_root"] / f"{stem}.png", classes[sample.segment_map])
    return {
        "image": {"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width},
        "annotation": {
            "image_id": image_id,
            "file_name": f"{stem}.png",
            "segments_info": segments,
        },
        "instances": [
            {
                "image_id": image_id,
                **{key: info[key] for key in ("category_id", "iscrowd", "area", "bbox")},
                "segmentation": segmentation(sample.segment_map == index, bool(info["iscrowd"])),
            }
            for index, info in enumerate(segments, start=1)
            if info["category_id"] in _THING_IDS
        ],
    }


def _segments_info(sample: Sample, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The segments of a sample, in their order, as COCO's panoptic JSON lists them."""
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
        segments.append(
            {
                "id": segment_id,
                "category_id": category["id"],
                "iscrowd": int(segment.iscrowd),
                **shape_info(sample.segment_map == index),
            }
        )
    return segments


def _write_annotations(folder: Path, split: str, results: list[dict[str, Any]]) -> None:
    paths = split_paths(folder, split)
    info = {"description": "shapes, a synthetic data set", "version": str(VERSION)}
    common = {"info": info, "images": [result["image"] for result in results]}
    annotations = [result["annotation"] for result in results]
    panoptic = {**common, "annotations": annotations, "categories": CATEGORIES}
    paths["panoptic_json"].write_text(json.dumps(panoptic), encoding="utf-8")

    instances = [entry for result in results for entry in result["instances"]]
    things = [
        {"id": category["id"], "name": category["name"]}
        for category in CATEGORIES
        if category["isthing"]
    ]
    numbered = [{"id": number, **entry} for number, entry in enumerate(instances, start=1)]
    coco = {**common, "annotations": numbered, "categories": things}
    paths["json_file"].write_text(json.dumps(coco), encoding="utf-8")


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write a label image (H, W), or an RGB image (H, W, 3)."""
    image = image.astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1], quality):
        raise OSError(f"cannot write {path}; is the disk full?")


def _write_video(path: Path, rng: np.random.Generator) -> None:
    writer = None
    for frame in make_video(rng, VIDEO_FRAMES):
        if writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(path), codec, VIDEO_FPS, frame.shape[1::-1])
            if not writer.isOpened():
                raise OSError(f"cannot write {path}: this OpenCV has no encoder for mp4v")
        writer.write(frame[..., ::-1])
    writer.release()
