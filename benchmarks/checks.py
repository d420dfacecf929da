"""All checks before a training, on a data set of COCO's size that is made up.

    python -m benchmarks.checks [--images 118000]

An image has 7.3 polygons of 20 points. Beside loading the config and checking the data sets stands
parsing the annotation of the training set alone; each is done in a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

from benchmarks.measure import machine
from mask_former.data import check_data
from mask_former.engine.config import load_config

CONFIG = Path(__file__).parents[1] / "configs/own-data/instances.yaml"
HEIGHT, WIDTH, POINTS, PER_IMAGE, CLASSES = 480, 640, 20, 7.3, 80


def make_split(folder: Path, split: str, images: int) -> None:
    """Write the files that `CONFIG` expects of a split; all images are links to one."""
    (folder / "images" / split).mkdir(parents=True)
    Image.effect_noise((WIDTH, HEIGHT), 64).convert("RGB").save(folder / "image.jpg")
    for i in range(images):
        (folder / "images" / split / f"{i}.jpg").symlink_to(folder / "image.jpg")
    size = {"height": HEIGHT, "width": WIDTH}
    entries = [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(images)]
    categories = [{"id": i, "name": str(i)} for i in range(CLASSES)]
    shapes = []
    for points in (np.random.rand(1000, POINTS, 2) * (WIDTH, HEIGHT)).round(2):
        box = [*points.min(axis=0), *np.ptp(points, axis=0).round(2)]
        shape = {"segmentation": [points.ravel().tolist()], "bbox": box, "area": 500.5}
        shapes.append(json.dumps({**shape, "iscrowd": 0})[:-1])
    annotations = ", ".join(
        f'{shapes[i % 1000]}, "id": {i}, "image_id": {i % images}, "category_id": {i % CLASSES}}}'
        for i in range(int(images * PER_IMAGE))
    )
    content = json.dumps({"images": entries, "categories": categories})[:-1]
    text = f'{content}, "annotations": [{annotations}]}}'
    (folder / f"instances_{split}.json").write_text(text)


def parse(folder: Path) -> object:
    return json.loads((folder / "instances_train.json").read_text())


def check(folder: Path) -> object:
    return check_data(load_config(str(CONFIG), ["DATASETS.CUSTOM.mine.ROOT", str(folder)]))


def measure(run: Callable[[Path], object], folder: Path) -> list[float]:
    """Seconds, seconds of the processors, and the GiB that the process had at most."""
    start, used = time.perf_counter(), time.process_time()
    run(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [time.perf_counter() - start, time.process_time() - used, peak]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=118_000)
    images = parser.parse_args().images
    rows = []
    with tempfile.TemporaryDirectory() as path:
        for split, count in (("train", images), ("val", images // 24)):
            make_split(Path(path), split, count)
        for name, run in (("json.loads", parse), ("all checks", check)):
            with multiprocessing.get_context("spawn").Pool(1) as process:
                rows.append([name, *process.apply(measure, (run, Path(path)))])
    print(machine())
    print(tabulate(rows, ["", "seconds", "CPU seconds", "GiB at most"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
