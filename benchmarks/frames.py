"""Frames a second of prediction: the model alone, and from an image file to its labels on the host.

    python -m benchmarks.frames [--backbone swin] [--device cuda] [--compiled] [--quick]

Semantic and panoptic segmentation by the recipes of ADE20K and COCO, at their sizes for tests, one
image of 480x640 at a time; ours beside the `transformers` implementation, as far as it knows the
recipe, and a plain transcription of the paper, with the same weights.
"""

import argparse
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from torch import Tensor

from benchmarks.inference import (
    BF16,
    COMPILED,
    COMPILED_BF16,
    FAST,
    HUGGING_FACE,
    OURS,
    PLAIN,
    Inference,
    differing_pixels,
)
from benchmarks.measure import Timing, compare
from benchmarks.models import encoder_layers, recipe
from benchmarks.photos import COCO, make_photos
from benchmarks.report import Result, report
from mask_former.data.mapper import MaskFormerDatasetMapper
from mask_former.engine.host_memory import keep_freed_memory

BACKBONES = ("R50", "swin", "swin_large")
# Share of the pixels: rounding may decide where two are close.
TOLERANCE = 1e-2


class Predictor:
    """One contender; a call reads the next image, segments it and brings the labels here."""

    def __init__(
        self,
        name: str,
        task: str,
        device: str,
        records: list[dict[str, Any]],
        options: tuple[str, ...],
        threshold: float | None = None,
    ) -> None:
        self.records, self.next = records, 0
        cfg = recipe(task, device, *options)
        plain = name in (HUGGING_FACE, PLAIN)
        self.read = PlainReader(cfg) if plain else MaskFormerDatasetMapper(cfg, is_train=False)
        self.inference = Inference(name, task, device, self.read(records[0]), options, threshold)

    def __call__(self) -> np.ndarray:
        self.inference.batch = [self.read(self.records[self.next])]
        self.next = (self.next + 1) % len(self.records)
        return self.inference().cpu().numpy()


class PlainReader:
    """Reading and resizing by Detectron2's tutorial."""

    def __init__(self, cfg: Any) -> None:
        size = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self.resize = T.ResizeShortestEdge([size[0], size[0]], size[1])

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image = detection_utils.read_image(record["file_name"], "RGB")
        image = self.resize.get_transform(image).apply_image(image)
        image = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        return {**record, "image": image}


def check(predictors: Mapping[str, Predictor]) -> dict[str, str]:
    """How the first maps differ from ours; an error if one of float32 does by too much."""
    maps: dict[str, Tensor] = {name: p.inference() for name, p in predictors.items()}
    found = {}
    for name in maps.keys() - {OURS}:
        panoptic = predictors[name].inference.panoptic
        share = differing_pixels(maps[name], maps[OURS], panoptic)
        found[name] = f"{100 * share:.2g}% of pixels"
        # That of `transformers` scales classes' scores in another order.
        if name in (FAST, COMPILED, PLAIN) and share > TOLERANCE:
            raise SystemExit(f"{name} differs from ours: {found[name]}")
    return found


def measure(
    task: str,
    device: str,
    names: Collection[str],
    records: list[dict[str, Any]],
    options: tuple[str, ...],
    rounds: int,
) -> list[Result]:
    """The model alone, and all from the file to the labels."""
    kind = "panoptic" if task.startswith("panoptic") else "semantic"
    first = Predictor(OURS, task, device, records, options)
    threshold = first.inference.ours.object_mask_threshold
    has_encoder = encoder_layers(first.inference.cfg) > 0
    known = [name for name in names if not (has_encoder and name == HUGGING_FACE)]
    predictors = {n: Predictor(n, task, device, records, options, threshold) for n in known}
    agreement = check(predictors)
    target = ">= 2.5" if device == "cuda" else ""
    models = {name: p.inference for name, p in predictors.items()}
    run = {"rounds": rounds, "warmup": 2, "device": device}
    alone = compare(models, **run)
    whole = compare(predictors, memory=False, **run)
    return [
        Result(f"{kind}, the model alone", FAST, alone, agreement),
        Result(f"{kind}, from file to labels", FAST, whole, target=target),
    ]


def frames(result: Result) -> str:
    rates = (f"{name} {_rate(timing)}" for name, timing in result.timings.items())
    return f"Frames a second, {result.case}: {'; '.join(rates)}."


def _rate(timing: Timing) -> str:
    return f"{1 / timing.median:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--backbone", default="R50", choices=BACKBONES)
    parser.add_argument("--compiled", action="store_true", help="ours compiled, too: minutes more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    args = parser.parse_args()
    keep_freed_memory()

    names = [FAST, OURS, BF16, *([COMPILED, COMPILED_BF16] if args.compiled else [])]
    names += [HUGGING_FACE, PLAIN]
    options = ("INPUT.MIN_SIZE_TEST", "96") if args.quick else ()
    with tempfile.TemporaryDirectory() as folder:
        photos = {**COCO, "size": (96, 128)} if args.quick else COCO
        records = make_photos(Path(folder) / "photos", images=4, **photos)
        results = [
            result
            for task in (args.backbone, f"panoptic {args.backbone}")
            for result in measure(task, args.device, names, records, options, args.rounds)
        ]
    report(
        "frames",
        results,
        remarks=[frames(result) for result in results],
        device=args.device,
        variant="" if args.backbone == "R50" else args.backbone,
    )


if __name__ == "__main__":
    main()
