"""Data loading: what a worker takes to make a training sample.

    python -m benchmarks.loading [--rounds 5] [--quick]

Against a mapper written plainly with Detectron2's functions, under the same random numbers; masks
have to be equal, and images but for the rounding of the resize. One thread, as in a worker. Then
the same from a data loader with one worker, whose samples have to travel to the training.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from torch.utils.data import DataLoader

from benchmarks.measure import Timing, compare
from benchmarks.peers.plain_mapper import PlainMapper
from benchmarks.photos import ADE20K, COCO, make_photos
from benchmarks.report import Growth, Result, growth, report
from mask_former.data.loader import BatchSampler, SeededDataset
from mask_former.data.mapper import MaskFormerDatasetMapper
from mask_former.data.reading import read_ids, read_image, read_labels
from mask_former.data.transforms import ResizeTransform
from mask_former.engine.config import load_config
from mask_former.engine.host_memory import keep_freed_memory

CONFIGS = Path(__file__).parents[1] / "configs"
PLAIN = "plain mapper"

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """A recipe and files like those of its data set.

    Attributes:
        name: for the table.
        config_file: of the recipe, below `configs`.
        options: other keys and values.
        photos: arguments of `make_photos`.
    """

    name: str
    config_file: str
    options: tuple[Any, ...]
    photos: dict[str, Any]

    def config(self, *options: Any) -> CfgNode:
        return load_config(str(CONFIGS / self.config_file), [*self.options, *options])

    def mappers(self) -> dict[str, Mapper]:
        return {
            "ours": MaskFormerDatasetMapper(self.config(), is_train=True),
            PLAIN: PlainMapper(self.config()),
        }


SEMANTIC = Task("ADE20K-like semantic", "ade20k-150/maskformer_R50_bs16_160k.yaml", (), ADE20K)
LIMITED = Task(
    "the same, no class over 3/4 of a crop",
    SEMANTIC.config_file,
    ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75),
    ADE20K,
)
PANOPTIC = Task(
    "COCO-like panoptic, DETR's augmentation",
    "coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml",
    (),
    COCO,
)
LARGE_CROPS = Task(
    "COCO-like panoptic, ADE20K's augmentation, 640x640",
    "ade20k-150-panoptic/maskformer_panoptic_R50_bs16_720k.yaml",
    (),
    COCO,
)


def map_all(mapper: Mapper, records: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Samples 0 ... count - 1 of a stream, masks included."""
    dataset = SeededDataset(records, mapper, seed=0)
    for position in range(count):
        sample = dataset[position, position % len(records)]
        sample["masks"] = sample["instances"].gt_masks.tensor
        yield sample


def difference(ours: Iterator[dict], theirs: Iterator[dict]) -> str:
    """How the images differ, in words; at most in 1% of the values. Masks have to be equal."""
    values = differing = largest = 0
    for a, b in zip(ours, theirs, strict=True):
        if not torch.equal(a["masks"], b["masks"]):
            raise SystemExit(f"The masks of {a['file_name']} differ.")
        if not torch.equal(a["instances"].gt_classes, b["instances"].gt_classes):
            raise SystemExit(f"The classes of {a['file_name']} differ.")
        levels = (a["image"].int() - b["image"].int()).abs()
        values += levels.numel()
        differing += int((levels > 0).sum())
        largest = max(largest, int(levels.max()))
    if differing > 0.01 * values:
        raise SystemExit(f"{differing} values of the images differ, by up to {largest}.")
    if not differing:
        return "none"
    return f"{differing / values:.2%} of the values, by at most {largest} of 255 levels"


def measure(task: Task, records: list[dict], count: int, rounds: int) -> Result:
    """Seconds a sample in this process, of one thread."""
    mappers = task.mappers()
    samples = (map_all(mappers[name], records, count) for name in ("ours", PLAIN))
    agreement = {PLAIN: difference(*samples)}
    found = timings(mappers, records, count, rounds)
    return Result(f"{task.name}: a sample", "ours", found, agreement)


def timings(
    mappers: dict[str, Mapper], records: list[dict], count: int, rounds: int
) -> dict[str, Timing]:
    def run(mapper: Mapper) -> None:
        for _ in map_all(mapper, records, count):
            pass

    contenders = {name: partial(run, mapper) for name, mapper in mappers.items()}
    found = compare(contenders, rounds=rounds, warmup=1, memory=False)
    return {name: Timing([s / count for s in t.seconds]) for name, t in found.items()}


def measure_loader(task: Task, records: list[dict], count: int, rounds: int) -> Result:
    """Seconds between samples that come from one worker, in batches of two."""
    mappers = task.mappers()
    seconds: dict[str, list[float]] = {name: [] for name in mappers}
    for _ in range(rounds):
        for name, mapper in mappers.items():
            seconds[name].append(seconds_from_worker(mapper, records, count))
    timings = {name: Timing(s) for name, s in seconds.items()}
    return Result(f"{task.name}: a sample from a loader of one worker", "ours", timings)


def seconds_from_worker(mapper: Mapper, records: list[dict], count: int) -> float:
    loader = DataLoader(
        SeededDataset(records, mapper, seed=0),
        batch_sampler=BatchSampler(torch.ones(len(records)), batch_size=2, seed=0),
        num_workers=1,
        collate_fn=list,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )
    batches = iter(loader)
    for _ in range(4):  # until it has settled
        next(batches)
    start = time.perf_counter()
    for _ in range(count // 2):
        for sample in next(batches):
            assert sample["instances"].gt_masks.tensor.dtype == torch.bool
    return (time.perf_counter() - start) / (count // 2 * 2)


def floor(task: Task, records: list[dict]) -> str:
    """What no mapper can avoid: decoding the files and resizing the image."""
    images = [read_image(record["file_name"], "RGB") for record in records]
    height, width = records[0]["height"], records[0]["width"]
    resizing = ResizeTransform(height, width, 640, 640 * width // height)

    def read() -> None:
        for record in records:
            read_image(record["file_name"], "RGB")
            if "pan_seg_file_name" in record:
                read_ids(record["pan_seg_file_name"])
            else:
                read_labels(record["sem_seg_file_name"])

    def resize() -> None:
        for image in images:
            resizing.apply_image(image)

    found = compare({"reading": read, "resizing": resize}, rounds=5, memory=False)
    took = {name: 1e3 * timing.median / len(records) for name, timing in found.items()}
    return (
        f"{task.name}: decoding the two files alone takes {took['reading']:.1f} ms, and "
        f"resizing the whole image to a height of 640, the mean of the recipe, "
        f"{took['resizing']:.1f} ms."
    )


def over(folder: Path, task: Task, key: str, label: str, values: list[Any]) -> Growth:
    """How the time grows with one argument of `make_photos`; `size` goes by the height."""

    def timings_at(value: int) -> dict[str, Timing]:
        argument = (value, value * 4 // 3) if key == "size" else value
        photos = {**task.photos, key: argument, "images": 4}
        records = make_photos(folder / f"{label}{value}", **photos)
        return timings(task.mappers(), records, 32, rounds=3)

    return growth(label, values, timings_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="loading works on the CPU only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few images")
    args = parser.parse_args()
    count, rounds, images = (4, 1, 2) if args.quick else (48, args.rounds, 16)
    keep_freed_memory()  # as a training does
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        ade20k = make_photos(folder / "ade20k", images=images, **ADE20K)
        coco = make_photos(folder / "coco", images=images, **COCO)
        results = [
            measure(SEMANTIC, ade20k, count, rounds),
            measure(LIMITED, ade20k, count, rounds),
            measure(PANOPTIC, coco, count, rounds),
            measure(LARGE_CROPS, coco, count, rounds),
            measure_loader(SEMANTIC, ade20k, count, rounds),
            measure_loader(PANOPTIC, coco, count, rounds),
        ]
        growths = []
        if not args.quick:
            growths = [
                over(folder, SEMANTIC, "size", "semantic: height", [256, 512, 1024]),
                over(folder, PANOPTIC, "segments", "panoptic: segments", [3, 12, 48]),
            ]
        remarks = [floor(SEMANTIC, ade20k), floor(PANOPTIC, coco)]
    report("loading", results, growths, remarks=remarks)


if __name__ == "__main__":
    main()
