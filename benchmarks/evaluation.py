"""Panoptic quality and mean IoU: what evaluation costs beside the model.

    python -m benchmarks.evaluation [--rounds 5] [--quick]

Panoptic quality against the reference program, transcribed in `peers/panoptic_reference.py`, as
Detectron2's evaluator runs it, and against hotcoco where that is installed; mean IoU against
Detectron2's evaluator. All on the CPU, from predictions made up; the metrics have to be equal.
"""

import argparse
import contextlib
import io
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from benchmarks.measure import Timing, compare
from benchmarks.peers import panoptic_reference
from benchmarks.peers.detectron2_evaluators import (
    LabelsAsScores,
    panoptic_evaluator,
    semantic_evaluator,
)
from benchmarks.report import Growth, Result, growth, report
from benchmarks.scenes import Scenes, make_scenes
from mask_former.data.reading import read_ids
from mask_former.evaluation import (
    BackgroundEvaluators,
    PanopticEvaluator,
    PanopticQuality,
    SemanticEvaluator,
)

try:
    from hotcoco.panoptic import pq_compute as hotcoco_pq
except ImportError:
    hotcoco_pq = None

Figures = Mapping[Any, float]


def run(evaluator: DatasetEvaluator, scenes: Scenes, outputs: list[dict], pause: float = 0) -> dict:
    """Evaluate image by image, as Detectron2's loop does; `pause` is what a model would take."""
    evaluator.reset()
    for record, output in zip(scenes.records, outputs, strict=True):
        if pause:
            time.sleep(pause)
        evaluator.process([record], [output])
    return next(iter(evaluator.evaluate().values()))


# Panoptic quality


def from_memory(scenes: Scenes, folder: Path) -> dict[str, Callable[[], Figures]]:
    """From the outputs of a model. Detectron2 makes PNG files of them for the reference."""
    name = scenes.panoptic
    return {
        "ours": lambda: run(PanopticEvaluator(name), scenes, scenes.outputs()),
        "ours, predictions saved": lambda: run(
            PanopticEvaluator(name, str(folder / "ours")), scenes, scenes.outputs()
        ),
        "Detectron2 and the reference, a process for each core": lambda: run(
            panoptic_evaluator(name, str(folder / "detectron2")), scenes, scenes.outputs()
        ),
    }


def from_files(scenes: Scenes) -> dict[str, Callable[[], Figures]]:
    """From PNG files of the predictions, which are there already; the scores of each class."""
    files = [str(scenes.folder / name) for name in ("gt.json", "pred.json", "gt", "pred")]

    def reference(compute: Callable[..., dict], **options: Any) -> Figures:
        with contextlib.redirect_stdout(io.StringIO()):
            results = compute(*files[:2], gt_folder=files[2], pred_folder=files[3], **options)
        return {
            (k, key): max(c[key], 0)  # hotcoco calls -1 what does not occur
            for k, c in results["per_class"].items()
            for key in ("pq", "sq", "rq")
        }

    contenders = {
        "ours": lambda: ours_from_files(*files, threads=1),
        "ours, 2 threads": lambda: ours_from_files(*files, threads=2),
        "the reference": lambda: reference(panoptic_reference.pq_compute, processes=1),
        "the reference, 2 processes": lambda: reference(panoptic_reference.pq_compute, processes=2),
    }
    if hotcoco_pq:
        contenders["hotcoco (Rust), 2 threads"] = lambda: reference(hotcoco_pq)
    return contenders


def ours_from_files(gt_json: str, pred_json: str, gt: str, pred: str, threads: int) -> Figures:
    """The reference's work by our functions; the scores of each class."""
    content = json.loads(Path(gt_json).read_text())
    predictions = json.loads(Path(pred_json).read_text())["annotations"]
    segments = {entry["image_id"]: entry["segments_info"] for entry in predictions}
    quality = PanopticQuality([category["isthing"] for category in content["categories"]])

    def add(entry: dict[str, Any]) -> None:
        image_id, name = entry["image_id"], entry["file_name"]
        pred_map, gt_map = (read_ids(f"{folder}/{name}") for folder in (pred, gt))
        quality.update(image_id, pred_map, segments[image_id], gt_map, entry["segments_info"])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(add, content["annotations"]))
    # The reference calls 0 what does not occur.
    scores = {name: np.nan_to_num(score) for name, score in vars(quality.per_class()).items()}
    return {(k, name): x for name, score in scores.items() for k, x in enumerate(score)}


# Mean IoU


def semantic(
    scenes: Scenes, ours: list[Any], theirs: list[Any]
) -> dict[str, Callable[[], Figures]]:
    """From the outputs of a model, in the form that each evaluator takes."""

    def outputs(values: list[Any]) -> list[dict[str, Any]]:
        return [{"sem_seg": value} for value in values]

    def detectron2(**options: Any) -> Figures:
        return run(semantic_evaluator(scenes.semantic, **options), scenes, outputs(theirs))

    return {
        "ours": lambda: run(SemanticEvaluator(scenes.semantic), scenes, outputs(ours)),
        "Detectron2": detectron2,
        "Detectron2, without boundaries and JSON": lambda: detectron2(only_counting=True),
    }


def from_labels(scenes: Scenes) -> dict[str, Callable[[], Figures]]:
    return semantic(scenes, scenes.labels, [LabelsAsScores(x) for x in scenes.labels])


# What is measured


def measure(case: str, contenders: dict[str, Callable[[], Figures]], rounds: int) -> Result:
    """Time the contenders and check that their metrics are equal."""
    found = {name: run() for name, run in contenders.items()}
    ours = found.pop("ours")
    agreement = {name: difference(ours, metrics) for name, metrics in found.items()}
    timings = compare(contenders, rounds=rounds, warmup=0, memory=False)
    return Result(case, "ours", timings, agreement)


def difference(ours: Figures, theirs: Figures) -> str:
    """The largest difference of the metrics that both have; not more than rounding, or it fails."""
    common = [key for key in ours if key in theirs]
    largest = max(
        abs(a - b) for a, b in ((ours[k], theirs[k]) for k in common) if not math.isnan(a + b)
    )
    disagree = [k for k in common if math.isnan(ours[k]) != math.isnan(theirs[k])]
    if largest > 1e-10 or disagree:
        raise SystemExit(f"The metrics differ by {largest}; {disagree} are metrics of one only.")
    return f"{len(common)} metrics equal to {largest:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="evaluation works on the CPU only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few images")
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    images = 4 if args.quick else 200
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder, "coco"), images=images)
        results = measure_all(scenes, Path(folder), rounds)
        growths = [] if args.quick else all_growths(Path(folder), images // 10)
        remarks = [floor(scenes)]
    report("evaluation", results, growths, remarks=remarks)


def measure_all(scenes: Scenes, folder: Path, rounds: int) -> list[Result]:
    images = len(scenes.records)
    what = f"{images} images of 640x480, 12 segments, 133 classes"
    return [
        measure(f"PQ from outputs, {what}", from_memory(scenes, folder), rounds),
        measure("PQ from PNG files, the same", from_files(scenes), rounds),
        measure("mIoU from labels, the same", from_labels(scenes), rounds),
        from_scores(folder / "scores", max(images // 20, 2), rounds),
        beside_a_model(scenes, rounds),
    ]


def all_growths(folder: Path, images: int) -> list[Growth]:
    """Over the size of the images, their segments and the classes."""
    number = iter(range(100))

    def at(**options: Any) -> Scenes:
        return make_scenes(folder / f"growth{next(number)}", images=images, **options)

    def panoptic(**options: Any) -> dict[str, Timing]:
        contenders = from_files(at(**options))
        chosen = {name: contenders[name] for name in ("ours", "the reference")}
        return compare(chosen, rounds=3, warmup=1, memory=False)

    def classes(count: int) -> dict[str, Timing]:
        s = at(classes=count)
        contenders = from_labels(s)
        return compare(contenders, rounds=3, warmup=1, memory=False)

    of = f"{images} images"
    return [
        growth(f"PQ, {of}: height", [240, 480, 960], lambda h: panoptic(size=(h, h * 4 // 3))),
        growth(f"PQ, {of}: segments", [3, 12, 48], lambda n: panoptic(segments=n)),
        growth(f"mIoU, {of}: classes", [20, 150, 847], classes),
    ]


def from_scores(folder: Path, images: int, rounds: int) -> Result:
    """One prediction in scores, for all images: they take much memory."""
    scenes = make_scenes(folder, images=images, classes=150)
    one_hot = torch.nn.functional.one_hot(scenes.labels[0], 150).permute(2, 0, 1)
    scores = [(one_hot + torch.rand(one_hot.shape) / 2).contiguous()] * images
    case = f"mIoU from scores, {images} images of 640x480, 150 classes"
    return measure(case, semantic(scenes, scores, scores), rounds)


def beside_a_model(scenes: Scenes, rounds: int) -> Result:
    """Panoptic and semantic evaluation while something else predicts, as a GPU does."""
    pause, count = 0.01, min(len(scenes.records), 50)
    scenes = replace(scenes, records=scenes.records[:count])
    outputs = [
        {**output, "sem_seg": labels}
        for output, labels in zip(scenes.outputs()[:count], scenes.labels[:count], strict=True)
    ]

    def evaluators() -> list[DatasetEvaluator]:
        return [PanopticEvaluator(scenes.panoptic), SemanticEvaluator(scenes.semantic)]

    contenders = {
        "ours": lambda: run(BackgroundEvaluators(evaluators()), scenes, outputs, pause),
        "ours, in turn with the model": lambda: run(
            DatasetEvaluators(evaluators()), scenes, outputs, pause
        ),
    }
    case = f"PQ and mIoU of {count} images beside a model that takes {pause * 1e3:.0f} ms for each"
    return measure(case, contenders, rounds)


def floor(scenes: Scenes) -> str:
    """What no evaluation can avoid: decoding the ground truth."""
    files = [str(path) for path in (scenes.folder / "gt").iterdir()]

    def read() -> None:
        for file in files:
            read_ids(file)

    seconds = compare({"reading": read}, rounds=5, memory=False)["reading"]
    return (
        f"Reading the {len(files)} PNG files of the ground truth alone takes "
        f"{seconds.median * 1e3:.0f} ms, which is the floor of PQ from outputs; that of PQ from "
        "PNG files is twice as much."
    )


if __name__ == "__main__":
    main()
