"""A whole training step: network forward, matching, losses, backward, optimizer.

    python -m benchmarks.training_step [--model mask2former] [--backbone swin] [--device cuda]
        [--compiled] [--quick]

ADE20K's semantic recipes (512x512, for Swin-L 640x640; batch 2, 10 segments an image), ours beside
the `transformers` implementation and, of MaskFormer, a plain transcription of the paper, with the
same weights and images. Dropout is off and Mask2Former's random points are the same for all in the
first step, so that losses and gradients can be compared.

On a GPU: `--images 8`, or as many as fit, `--compiled`, and `--backbone swin_large`.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inference import OURS, contender_keys, contender_names
from benchmarks.measure import Timing, allocators, compare, matrix_rate
from benchmarks.models import (
    BACKBONES,
    MODELS,
    SMALL,
    make_batch,
    our_model,
    recipe,
    task_name,
    variant,
)
from benchmarks.report import Growth, Result, agreement, growth, report
from benchmarks.steps import (
    PARTS,
    Clock,
    HuggingFaceStep,
    OurStep,
    PlainStep,
    Step,
    same_points,
)

# Relative. A ReLU whose input is 0 but for rounding has one gradient or another, and a pixel whose
# mask is undecided is attended to or not.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 5e-3


def contenders(
    task: str,
    device: str,
    size: int,
    images: int,
    names: Collection[str],
    options: Sequence[Any] = (),
) -> dict[str, Step]:
    """Steps on the same images from the same weights."""
    cfg = recipe(task, device, *options)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    batch = make_batch((size, size), images=images, segments=10, classes=classes)
    weights = our_model(cfg)

    def make(name: str) -> Step:
        if name.startswith("ours"):
            ours = recipe(task, device, *options, *contender_keys(name))
            return OurStep(ours, our_model(ours), batch, Clock(device))
        peer = HuggingFaceStep if "transformers" in name else PlainStep
        amp_dtype = torch.bfloat16 if "bfloat16" in name else None
        return peer(cfg, weights, batch, Clock(device), amp_dtype)

    return {name: make(name) for name in names}


def check(steps: Mapping[str, Step]) -> dict[str, str]:
    """How the first step of each differs from ours, which in float32 it must not."""
    losses, gradients, found = {}, {}, {}
    for name, step in steps.items():
        with same_points():
            losses[name] = step.loss_and_gradients().double()
        gradients[name] = step.gradients()
    for name in steps.keys() - {OURS}:
        loss = ((losses[name] - losses[OURS]) / losses[OURS]).abs().item()
        gradient = _distance(gradients[name], gradients[OURS])
        equal = loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE
        text = f"loss {loss:.0e}, gradient {gradient:.0e}"
        found[name] = agreement(text, holds="bfloat16" in name or equal)
    return found


def _distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference of all gradients, relative to that of `b`."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    difference = sum((a[name] - b[name]).double().square().sum() for name in b)
    return (difference / sum(g.double().square().sum() for g in b.values())).sqrt().item()


def whole_step(steps: Mapping[str, Step], rounds: int, device: str, quick: bool) -> list[Result]:
    """With each allocator setting, the same for all; that of our training last."""
    differences = check(steps)
    _let_clocks_wait(steps, False)
    results = []
    for allocator in allocators(device, quick=quick):
        warmup = 0 if quick else 2
        timings = compare(steps, rounds=rounds, warmup=warmup, memory=not quick, device=device)
        results.append(Result(f"whole step{allocator}", OURS, timings, differences))
    return results


def parts_of_step(steps: Mapping[str, Step], rounds: int, device: str) -> list[Result]:
    _let_clocks_wait(steps, True)
    before = {name: len(step.clock.steps) for name, step in steps.items()}
    compare(steps, rounds=rounds, warmup=0, memory=False, device=device)
    seconds = {name: step.clock.steps[before[name] :] for name, step in steps.items()}
    return [
        Result(part, OURS, {n: Timing([step[part] for step in s]) for n, s in seconds.items()})
        for part in PARTS
    ]


def _let_clocks_wait(steps: Mapping[str, Step], waits: bool) -> None:
    """For the parts of a step a GPU has to be waited for, which takes time from the whole step."""
    for step in steps.values():
        step.clock.waits = waits


def over_image_sizes(names: Collection[str], task: str, device: str, images: int) -> Growth:
    """How the time grows with the images."""

    def timings_at(size: int) -> dict[str, Timing]:
        steps = contenders(task, device, size, images, names)
        return compare(steps, rounds=2, warmup=1, memory=False, device=device)

    return growth("height and width of the images", [256, 384, 512], timings_at)


def remarks(
    steps: Mapping[str, Step], whole: Result, parts: list[Result], device: str, quick: bool
) -> list[str]:
    """Images a second; of ours, what is not the network, and how much of the rate of large matrix
    products the network's multiply-adds come to."""
    with FlopCounterMode(display=False) as counter:
        steps[OURS].loss_and_gradients()
    multiply_adds = counter.get_total_flops() / 2
    images = len(steps[OURS].batch)
    rates = (f"{name} {images / timing.median:.3g}" for name, timing in whole.timings.items())
    found = [f"Images a second: {'; '.join(rates)}."]
    for name in (name for name in steps if name.startswith("ours")):
        dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
        rate = matrix_rate(dtype, device=device, size=256 if quick else None)
        seconds, floor = whole.timings[name].median, multiply_adds / rate
        took = {part.case: part.timings[name].median for part in parts}
        outside = sum(took[part] for part in ("matching", "losses", "optimizer"))
        found.append(
            f"{name}: matching, losses (forward) and optimizer are "
            f"{100 * outside / sum(took.values()):.0f}% of the step. "
            f"{multiply_adds / 1e9:.0f} G multiply-adds at {rate / 1e9:.0f} G a second (measured) "
            f"are {floor * 1e3:.0f} ms, {100 * floor / seconds:.0f}% of the step."
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="maskformer", choices=MODELS)
    parser.add_argument("--backbone", default="R50", choices=BACKBONES)
    parser.add_argument("--images", type=int, default=2, help="of a batch")
    parser.add_argument("--compiled", action="store_true", help="ours compiled, no peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-growth", action="store_true", help="no other sizes, no plot")
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    args = parser.parse_args()
    task = task_name(args.model, args.backbone)
    names = contender_names(args.device, args.compiled, plain=args.model == "maskformer")
    size = 64 if args.quick else recipe(task, args.device).INPUT.CROP.SIZE[0]

    options = SMALL if args.quick else ()
    steps = contenders(task, args.device, size, args.images, names, options)
    whole = whole_step(steps, args.rounds, args.device, args.quick)
    parts = parts_of_step(steps, args.rounds, args.device)
    notes = remarks(steps, whole[-1], parts, args.device, args.quick)
    del steps
    growths = []
    if not (args.quick or args.no_growth):
        names = [name for name in names if "compiled" not in name]
        growths = [over_image_sizes(names, task, args.device, args.images)]
    report(
        "training_step",
        whole + parts,
        growths,
        remarks=notes,
        device=args.device,
        variant=variant(args),
    )


if __name__ == "__main__":
    main()
