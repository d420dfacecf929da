"""Whole inference of an image: network and post-processing, and from an image file to its map.

    python -m benchmarks.model_inference [--model mask2former] [--backbone swin] [--device cuda]
        [--compiled] [--quick]

ADE20K's semantic recipe at 512x512 and COCO's panoptic one at 800x1216, a dozen queries confident;
ours beside the implementation of `transformers` and, of MaskFormer, a plain transcription of the
paper, with the same weights. In MaskFormer's pixel decoder `transformers` has no transformer
encoder, so panoptic inference is compared with and without. Last, with files: read, resized,
segmented, the map on the host.
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

from benchmarks.inference import (
    COMPILED,
    OURS,
    PLAIN,
    Inference,
    contender_names,
    differing_pixels,
    least_score,
)
from benchmarks.measure import Timing, allocators, compare
from benchmarks.models import BACKBONES, MODELS, SMALL, encoder_layers, recipe, task_name, variant
from benchmarks.photos import COCO, make_photos
from benchmarks.report import Growth, Result, agreement, growth, report
from mask_former.data.mapper import MaskFormerDatasetMapper

NO_ENCODER = ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder")
NO_ENCODER += ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5")
NO_ENCODER += ("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 0)
# Share of the pixels: rounding may decide where two are close.
TOLERANCE = 1e-2
# Relative to the largest.
LOGITS_TOLERANCE = 1e-4
Size = tuple[int, int]


def contenders(
    names: Collection[str], task: str, device: str, size: Size, options: tuple[Any, ...] = ()
) -> dict[str, Inference]:
    """On the same random image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    record = {"image": image, "height": size[0], "width": size[1]}
    threshold = least_score(task, device, image, options) if task.startswith("panoptic") else 0.0
    if encoder_layers(recipe(task, device, *options)):
        names = [name for name in names if "transformers" not in name]
    return {name: Inference(name, task, device, record, options, threshold) for name in names}


def check(contenders: Mapping[str, Inference]) -> dict[str, str]:
    """How logits and maps differ from ours, which in float32 they must not by much.

    The map of `transformers` is made by other rules, which scale probabilities.
    """
    maps = {name: contender() for name, contender in contenders.items()}
    logits = {name: contender.predict()[:2] for name, contender in contenders.items()}
    found = {}
    for name in maps.keys() - {OURS}:
        share = differing_pixels(maps[name], maps[OURS], contenders[name].panoptic)
        largest = max(
            ((a - b).abs().max() / b.abs().max()).item()
            for a, b in zip(logits[name], logits[OURS], strict=True)
        )
        equal = share <= TOLERANCE or name not in (COMPILED, PLAIN)
        equal &= largest <= LOGITS_TOLERANCE or "float32" not in name
        text = f"logits {largest:.0e}, {100 * share:.2g}% of pixels"
        found[name] = agreement(text, holds=equal)
    return found


class FromFile:
    """One contender; a call reads the next image, segments it and brings its map here."""

    def __init__(self, inference: Inference, records: list[dict[str, Any]]) -> None:
        self.inference, self.records, self.next = inference, records, 0
        ours = inference.name.startswith("ours")
        cfg = inference.cfg
        self.read = MaskFormerDatasetMapper(cfg, is_train=False) if ours else PlainReader(cfg)

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
        return {**record, "image": torch.as_tensor(image.transpose(2, 0, 1).copy())}


def over_image_sizes(names: Collection[str], task: str, device: str, sizes: list[Size]) -> Growth:
    """How the time grows with the image."""
    megapixels = {height * width / 1e6: (height, width) for height, width in sizes}

    def timings_at(value: float) -> dict[str, Timing]:
        runs = contenders(names, task, device, megapixels[value])
        return compare(runs, rounds=2, warmup=1, memory=False, device=device)

    return growth("megapixels of a panoptic image", list(megapixels), timings_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="maskformer", choices=MODELS)
    parser.add_argument("--backbone", default="R50", choices=BACKBONES)
    parser.add_argument("--compiled", action="store_true", help="ours compiled, no peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-growth", action="store_true", help="no other sizes, no plot")
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    args = parser.parse_args()

    names = contender_names(args.device, args.compiled, plain=args.model == "maskformer")
    semantic = task_name(args.model, args.backbone)
    panoptic = f"panoptic {semantic}"
    small = (*SMALL, "INPUT.MIN_SIZE_TEST", 64) if args.quick else ()
    cases = {
        "semantic": (semantic, (64, 64) if args.quick else (512, 512), small),
        "panoptic": (panoptic, (64, 96) if args.quick else (800, 1216), small),
    }
    if args.model == "maskformer":
        cases["panoptic, no encoder"] = (*cases["panoptic"][:2], (*small, *NO_ENCODER))
    runs = {
        f"{case}, {size[0]}x{size[1]}": contenders(names, task, args.device, size, options)
        for case, (task, size, options) in cases.items()
    }
    differences = {case: check(of_case) for case, of_case in runs.items()}
    results = []
    for allocator in allocators(args.device, quick=args.quick):
        for case, of_case in runs.items():
            warmup = 0 if args.quick else 2
            timings = compare(
                of_case,
                rounds=args.rounds,
                warmup=warmup,
                memory=not args.quick,
                device=args.device,
            )
            results.append(Result(case + allocator, OURS, timings, differences[case]))

    with tempfile.TemporaryDirectory() as folder:
        photos = {**COCO, "size": (96, 128)} if args.quick else COCO
        records = make_photos(Path(folder) / "photos", images=4, **photos)
        for of_case in list(runs.values())[:2]:
            files = {name: FromFile(inference, records) for name, inference in of_case.items()}
            timings = compare(files, rounds=args.rounds, memory=False, device=args.device)
            case = "panoptic" if of_case[OURS].panoptic else "semantic"
            results.append(Result(f"{case}, from a file of 480x640 to the map", OURS, timings))
    growths = []
    if not (args.quick or args.no_growth):
        names = [name for name in names if "compiled" not in name]
        sizes = [(400, 608), (800, 1216), (1600, 2432)]
        growths = [over_image_sizes(names, panoptic, args.device, sizes)]
    report(
        "model_inference",
        results,
        growths,
        device=args.device,
        variant=variant(args),
    )


if __name__ == "__main__":
    main()
