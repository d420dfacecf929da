"""Whole panoptic inference of an image: network and post-processing.

    python -m benchmarks.model_inference [--device cuda] [--quick]

COCO's panoptic R50 recipe with its 6 encoder layers, an image of 800x1200; ours beside a plain
transcription of the paper with the same weights, and beside the `transformers` implementation,
which has no encoder, with the same recipe without encoder. A dozen queries are confident.
"""

import argparse
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inference import (
    BF16,
    COMPILED,
    FAST,
    HUGGING_FACE,
    OURS,
    PLAIN,
    Inference,
    differing_pixels,
)
from benchmarks.measure import Timing, compare, matrix_rate
from benchmarks.processes import in_processes
from benchmarks.report import Growth, Result, report
from mask_former.engine.host_memory import keep_freed_memory

TASK = "panoptic R50"
WITH_ENCODER = (FAST, OURS, BF16, COMPILED, PLAIN)
WITHOUT_ENCODER = (FAST, OURS, BF16, HUGGING_FACE, PLAIN)
NO_ENCODER = ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder")
NO_ENCODER += ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5")
NO_ENCODER += ("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "0")
# Queries of random weights differ by little of what they share, and bfloat16 rounds all of it.
MASK_TOLERANCE, MASK_TOLERANCE_BF16 = 1e-4, 0.5
PIXEL_TOLERANCE = 1e-2
Size = tuple[int, int]


def make(
    name: str, device: str, size: Size, encoder: bool, threshold: float | None = None
) -> Inference:
    """A contender on a random image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    image = {"image": image, "height": size[0], "width": size[1]}
    return Inference(name, TASK, device, image, () if encoder else NO_ENCODER, threshold)


def check(contenders: dict[str, Inference]) -> dict[str, str]:
    """How masks (relative norm) and maps (pixels) differ from those of the default; an error if
    it is too much. Only in float32 are maps to be the same."""
    masks, maps, found = {}, {}, {}
    for name, contender in contenders.items():
        masks[name] = (prediction := contender.network()).mask_logits.float()
        maps[name] = contender.segment(prediction)
    for name in maps.keys() - {OURS}:
        distance = ((masks[name] - masks[OURS]).norm() / masks[OURS].norm()).item()
        share = differing_pixels(maps[name], maps[OURS], panoptic=True)
        found[name] = f"masks {distance:.0e}, {100 * share:.2g}% of pixels"
        differs = name not in (HUGGING_FACE, BF16) and share > PIXEL_TOLERANCE
        if differs or distance > (MASK_TOLERANCE_BF16 if name == BF16 else MASK_TOLERANCE):
            raise SystemExit(f"{name} differs: {found[name]}")
    return found


def measure(
    names: Collection[str], device: str, size: Size, rounds: int, case: str, encoder: bool
) -> list[Result]:
    """Whole inference with freed memory kept by all, and its two parts."""
    threshold = make(OURS, device, size, encoder).ours.object_mask_threshold
    contenders = {name: make(name, device, size, encoder, threshold) for name in names}
    agreement = check(contenders)
    timings = compare(contenders, rounds=rounds, warmup=2, device=device)
    results = [Result(f"{case}, freed memory kept by all", FAST, timings, agreement)]
    predictions = {name: contender.network() for name, contender in contenders.items()}
    parts: dict[str, dict[str, Callable[[], Any]]] = {
        "its network": {name: c.network for name, c in contenders.items()},
        "its post-processing": {
            name: partial(c.segment, predictions[name]) for name, c in contenders.items()
        },
    }
    for part, runs in parts.items():
        timings = compare(runs, rounds=rounds, warmup=1, memory=False, device=device)
        results.append(Result(part, FAST, timings))
    return results


def as_they_come(device: str, size: Size, rounds: int) -> list[Result]:
    """With the encoder, where ours keeps freed memory, as our evaluation does, and peers do not."""
    threshold = make(OURS, device, size, True).ours.object_mask_threshold
    names = WITH_ENCODER
    makers = {name: partial(make, name, device, size, True, threshold) for name in names}
    with in_processes(makers, keep=frozenset(names) - {PLAIN}) as runs:
        timings = compare(runs, rounds=rounds, warmup=2, memory=False, device=device)
    case = "whole inference, each as it comes"
    return [
        Result.beside(case, OURS, timings, [PLAIN], target=">= 1.3"),
        Result.beside("fastest order", FAST, timings, [PLAIN], target=">= 1.3"),
        Result.beside("fastest order, compiled", COMPILED, timings, [PLAIN]),
        Result.beside("bfloat16", BF16, timings, [PLAIN], target=">= 2"),
    ]


def growth(device: str, sizes: list[Size], seconds: dict[str, Timing]) -> Growth:
    """Over the size of the image; of the last one the times are known."""
    names = (FAST, BF16, PLAIN)
    times: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes[:-1]:
        contenders = {name: make(name, device, size, True) for name in names}
        timings = compare(contenders, rounds=2, warmup=1, memory=False, device=device)
        for name, timing in timings.items():
            times[name].append(timing.median)
    megapixels = [height * width / 1e6 for height, width in sizes]
    known = {name: [*times[name], seconds[name].median] for name in names}
    return Growth("megapixels of the image", megapixels, known)


def floor(device: str, size: Size, timings: dict[str, Timing]) -> list[str]:
    """What the network's multiply-adds take at the rate of large matrix products."""
    remarks = []
    for name, dtype in ((OURS, torch.float32), (FAST, torch.float32), (BF16, torch.bfloat16)):
        with FlopCounterMode(display=False) as counter:
            make(name, device, size, True, threshold=0.0).network()
        multiply_adds = counter.get_total_flops() / 2
        rate = matrix_rate(dtype, device=device)
        seconds = multiply_adds / rate
        remarks.append(
            f"{name}: {multiply_adds / 1e9:.0f} G multiply-adds of the network at "
            f"{rate / 1e9:.0f} G a second (measured) are {seconds * 1e3:.0f} ms, "
            f"{100 * seconds / timings[name].median:.0f}% of the time."
        )
    return remarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="a small image in one process, to try it out"
    )
    args = parser.parse_args()
    sizes = [(64, 96), (96, 128)] if args.quick else [(400, 600), (560, 840), (800, 1200)]
    keep_freed_memory()

    options = (args.device, sizes[-1], args.rounds)
    # On a GPU all are alike, and the compiled one is among them; on a CPU it takes minutes.
    alone = args.quick or args.device == "cuda"
    results = [] if alone else as_they_come(*options)
    names = [n for n in WITH_ENCODER if n != COMPILED or args.device == "cuda"]
    kept = measure(names, *options, "whole inference", True)
    results += kept
    results += measure(WITHOUT_ENCODER, *options, "without encoder", False)[:1]
    timings = kept[0].timings
    remarks = floor(args.device, sizes[-1], timings)
    growths = [growth(args.device, sizes, timings)]
    report("model_inference", results, growths, remarks=remarks, device=args.device)


if __name__ == "__main__":
    main()
