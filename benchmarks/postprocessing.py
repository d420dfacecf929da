"""From the predictions of the network to a segmentation: panoptic, semantic, instances.

    python -m benchmarks.postprocessing [--device cuda] [--rounds 9] [--quick]

Ours beside the plain order of operations, and beside the image processor of `transformers`, which
scales probabilities of the masks as predicted and knows no padding: nearly the same maps, from less
work. Predictions are made up: smooth masks, a dozen of them of confident queries. Needs 10 GB of
memory, for the plain order.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.measure import Timing, compare, matrix_rate
from benchmarks.peers import plain_inference as plain
from benchmarks.predictions import Scene, Size, Sizes, make_scene
from benchmarks.report import Growth, Result, growth, report
from benchmarks.segmentations import (
    OURS,
    PLAIN,
    instances,
    our_panoptic,
    panoptic,
    plain_panoptic,
    semantic,
)
from mask_former import inference


def measure(rounds: int, device: str, quick: bool) -> tuple[list[Result], list[str]]:
    """The cases of the table, and what to know about them."""
    part = 16 if quick else 1

    def scene(mask: Size, *sizes: Size, classes: int) -> Scene:
        small = [(height // part, width // part) for height, width in (mask, *sizes)]
        return make_scene(small[0], Sizes(*small[1:]), classes=classes, device=device)

    coco = scene((200, 304), (800, 1216), (800, 1200), (480, 720), classes=133)
    large = (1024, 2048)
    ade = scene((256, 512), large, large, large, classes=150)
    half = (512, 1024)
    enlarged = scene((128, 256), half, half, large, classes=150)
    full = scene((256, 512), large, large, large, classes=847)
    few = max(1, rounds // 4)
    results = [
        panoptic(coco, rounds, device),
        instances(coco, rounds, device),
        semantic(ade, few, device),
        semantic(enlarged, few, device, scaled=True, peers=False),
        semantic(full, few, device, peers=False),
    ]
    rate = matrix_rate(device=device, size=256 if quick else None)
    remarks = []
    for case, result in ((ade, results[2]), (full, results[4])):
        (queries, outputs), (height, width) = case.class_logits.shape, case.sizes.output
        floor = queries * (outputs - 1) * height * width / rate
        remarks.append(
            f"Semantic labels, {outputs - 1} classes: the sum over the queries alone is "
            f"{queries * (outputs - 1) * height * width / 1e9:.1f} billion multiply-adds, "
            f"{floor * 1e3:.0f} ms at the measured matrix rate of {rate / 1e9:.0f} billion a "
            f"second; ours takes {result.timings[OURS].median / floor:.1f} times that."
        )
    remarks.append(
        "`transformers` scales probabilities from the size of the predicted masks to that of the "
        "result, and compares the area of a mask where score times probability is at least 0.5: "
        "not the published order, and less work."
    )
    return results, remarks


def growths(device: str) -> list[Growth]:
    """Panoptic by pixels and by segments, semantic labels by classes."""
    side = 480

    def panoptic_scene(scale: float = 1.0, segments: int = 12) -> Scene:
        output = (int(side * scale), int(1.5 * side * scale))
        sizes = Sizes((800, 1216), (800, 1200), output)
        options = {"classes": 133, "segments": segments, "device": device}
        return make_scene((200, 304), sizes, **options)

    def semantic_scene(classes: int = 150, queries: int = 100) -> Scene:
        output = (side, 2 * side)
        mask_size = (side // 4, side // 2)
        options = {"classes": classes, "queries": queries, "device": device}
        return make_scene(mask_size, Sizes(output, output, output), **options)

    of_panoptic = {OURS: our_panoptic, PLAIN: plain_panoptic}
    of_semantic = {
        OURS: lambda scene: inference.semantic_labels(*scene),
        PLAIN: lambda scene: plain.semantic(*scene).argmax(0),
    }
    return [
        over(
            "panoptic: height of the result (pixels)",
            {side * x: panoptic_scene(scale=x) for x in (0.5, 1, 2)},
            of_panoptic,
            device,
        ),
        over(
            "panoptic: confident queries of 100",
            {n: panoptic_scene(segments=n) for n in (3, 12, 48)},
            of_panoptic,
            device,
        ),
        over(
            f"labels of {side}x{2 * side}: classes",
            {n: semantic_scene(classes=n) for n in (19, 150, 847)},
            of_semantic,
            device,
        ),
        over(
            f"labels of {side}x{2 * side}: queries",
            {n: semantic_scene(queries=n) for n in (50, 100, 200)},
            of_semantic,
            device,
        ),
    ]


def over(
    size: str,
    scenes: dict[float, Scene],
    functions: dict[str, Callable[[Scene], Any]],
    device: str,
) -> Growth:
    def timings_at(value: float) -> dict[str, Timing]:
        contenders = {name: partial(run, scenes[value]) for name, run in functions.items()}
        return compare(contenders, rounds=3, warmup=1, memory=False, device=device)

    return growth(size, list(scenes), timings_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-growth", action="store_true", help="no other sizes, no plot")
    parser.add_argument("--quick", action="store_true", help="small images, few rounds")
    args = parser.parse_args()
    with torch.inference_mode():
        rounds = 1 if args.quick else args.rounds
        results, remarks = measure(rounds, args.device, args.quick)
        found = [] if args.quick or args.no_growth else growths(args.device)
    report("postprocessing", results, found, remarks=remarks, device=args.device)


if __name__ == "__main__":
    main()
