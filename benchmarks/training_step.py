"""A whole training step: network forward, matching, losses, backward, optimizer.

    python -m benchmarks.training_step [--backbone swin] [--device cuda] [--compiled] [--quick]

ADE20K's semantic recipes (512x512, for Swin-L 640x640; batch 2, 6 layers, 10 segments an image),
ours beside the `transformers` implementation and a plain transcription of the paper, with the same
weights and images. Dropout is off, so that losses and gradients can be compared.

On a GPU: `--images 8`, or as many as fit, `--compiled`, and `--backbone swin_large`.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Timing, compare, matrix_rate
from benchmarks.models import make_batch, our_model, recipe
from benchmarks.processes import in_processes
from benchmarks.report import Growth, Result, report
from benchmarks.steps import PARTS, Clock, HuggingFaceStep, OurStep, PlainStep, Step
from mask_former.engine.host_memory import keep_freed_memory

OURS, FAST, BF16 = "ours, float32", "ours, float32, fastest order", "ours, bfloat16, fastest order"
COMPILED, COMPILED_BF16 = "ours, float32, compiled", "ours, bfloat16, compiled"
HUGGING_FACE, PLAIN = "`transformers`, float32", "plain, float32"
PEERS = (HUGGING_FACE, PLAIN)
NAMES = (FAST, OURS, BF16, *PEERS)
# How many times as fast as the fastest peer ours is to be: in float32, and in bfloat16.
TARGETS = {"R50": (1.5, 2.5), "swin": (1.5, 2.2), "swin_large": (1.5, 2.2)}
GPU_TARGET = 2.5
# Relative. A ReLU whose input is 0 but for rounding has one gradient or another.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3


def contenders(
    backbone: str, device: str, size: int, images: int, names: Collection[str] = NAMES
) -> dict[str, Step]:
    """Steps on the same images from the same weights."""
    cfg = recipe(backbone, device)
    fast = recipe(backbone, device, "MODEL.PUBLISHED_ROUNDING", "False")
    compiled = fast.clone()
    compiled.MODEL.COMPILE = True
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    batch = make_batch((size, size), images=images, segments=10, classes=classes)
    model = our_model(cfg)

    def ours(cfg: CfgNode, amp_dtype: torch.dtype | None = None) -> OurStep:
        return OurStep(cfg, our_model(cfg), batch, Clock(device), amp_dtype)

    make = {
        FAST: lambda: ours(fast),
        OURS: lambda: OurStep(cfg, model, batch, Clock(device)),
        BF16: lambda: ours(fast, torch.bfloat16),
        COMPILED: lambda: ours(compiled),
        COMPILED_BF16: lambda: ours(compiled, torch.bfloat16),
        HUGGING_FACE: lambda: HuggingFaceStep(cfg, model, batch, Clock(device)),
        PLAIN: lambda: PlainStep(cfg, model, batch, Clock(device)),
    }
    return {name: make[name]() for name in names}


def check(steps: Mapping[str, Step]) -> dict[str, str]:
    """How the first step of each differs from ours; an error unless it equals ours in float32."""
    losses, gradients, found = {}, {}, {}
    for name, step in steps.items():
        losses[name] = step.loss_and_gradients().double()
        gradients[name] = step.gradients()
    for name in steps.keys() - {OURS}:
        loss = ((losses[name] - losses[OURS]) / losses[OURS]).abs().item()
        gradient = _distance(gradients[name], gradients[OURS])
        found[name] = f"loss {loss:.0e}, gradient {gradient:.0e}"
        if "float32" in name and (loss > LOSS_TOLERANCE or gradient > GRADIENT_TOLERANCE):
            raise SystemExit(f"{name} differs from ours: {found[name]}")
    return found


def _distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference of all gradients, relative to that of `b`."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    difference = sum((a[name] - b[name]).double().square().sum() for name in b)
    return (difference / sum(g.double().square().sum() for g in b.values())).sqrt().item()


def measure(steps: Mapping[str, Step], rounds: int, device: str) -> list[Result]:
    """The whole step, and its parts."""
    agreement = check(steps)
    if device == "cuda":
        _let_clocks_wait(steps, False)
    done = {name: len(step.clock.steps) + 1 for name, step in steps.items()}  # one to warm up
    timings = compare(steps, rounds=rounds, warmup=1, device=device)
    if device == "cuda":
        _let_clocks_wait(steps, True)
        done = {name: len(step.clock.steps) for name, step in steps.items()}
        compare(steps, rounds=rounds, warmup=0, memory=False, device=device)
    results = [Result("whole step, freed memory kept by all", FAST, timings, agreement)]
    for part in PARTS:
        parts = {
            name: Timing([s[part] for s in step.clock.steps[done[name] :][:rounds]])
            for name, step in steps.items()
        }
        results.append(Result(part, FAST, parts))
    return results


def _let_clocks_wait(steps: Mapping[str, Step], waits: bool) -> None:
    """For the parts of a step a GPU has to be waited for, which takes time from the whole step."""
    for step in steps.values():
        step.clock.waits = waits


def one(name: str, *options: Any) -> Step:
    return contenders(*options, [name])[name]


def as_they_come(
    backbone: str, device: str, size: int, images: int, names: Collection[str], rounds: int
) -> list[Result]:
    """The whole step where ours keeps freed memory, as our training does, and peers do not."""
    make = {name: partial(one, name, backbone, device, size, images) for name in names}
    with in_processes(make, keep=frozenset(names) - frozenset(PEERS)) as steps:
        timings = compare(steps, rounds=rounds, warmup=2, memory=False, device=device)
    return beside_peers("whole step, each as it comes", timings, TARGETS[backbone])


def beside_peers(
    case: str, timings: Mapping[str, Timing], targets: tuple[float, float]
) -> list[Result]:
    """Each of ours beside the peers, with its target."""
    cases = {OURS: case, FAST: "fastest order", COMPILED: "fastest order, compiled"}
    cases |= {BF16: "bfloat16", COMPILED_BF16: "bfloat16, compiled"}
    return [
        Result.beside(case, name, timings, PEERS, target=f">= {targets['bfloat16' in name]}")
        for name, case in cases.items()
        if name in timings
    ]


def growth(
    backbone: str, device: str, sizes: list[int], images: int, seconds: dict[str, float]
) -> Growth:
    """Over the size of the images; of the last one, `seconds` are known."""
    names = (FAST, BF16, PLAIN)
    times: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes[:-1]:
        steps = contenders(backbone, device, size, images, names)
        timings = compare(steps, rounds=2, warmup=1, memory=False, device=device)
        for name, timing in timings.items():
            times[name].append(timing.median)
    return Growth(
        "height and width of the images", sizes, {n: [*times[n], seconds[n]] for n in names}
    )


def remarks(steps: Mapping[str, Step], measured: Sequence[Result], device: str) -> list[str]:
    """Of ours: images a second, what is not the network, and how much of the rate of large matrix
    products the network's multiply-adds come to.

    `measured` is what `measure` returns.
    """
    whole, *parts = (result.timings for result in measured)
    with FlopCounterMode(display=False) as counter:
        steps[OURS].loss_and_gradients()
    multiply_adds = counter.get_total_flops() / 2
    rates = {dtype: matrix_rate(dtype, device=device) for dtype in (torch.float32, torch.bfloat16)}
    found = []
    for name in steps.keys() - set(PEERS):
        rate = rates[torch.bfloat16 if "bfloat16" in name else torch.float32]
        seconds, floor = whole[name].median, multiply_adds / rate
        took = {part: timings[name].median for part, timings in zip(PARTS, parts, strict=True)}
        outside = sum(took[part] for part in ("matching", "losses", "optimizer"))
        found.append(
            f"{name}: {len(steps[name].batch) / seconds:.3g} images a second. Matching, losses "
            f"(forward) and optimizer are {100 * outside / sum(took.values()):.0f}% of the step. "
            f"{multiply_adds / 1e9:.0f} G multiply-adds at {rate / 1e9:.0f} G a second (measured) "
            f"are {floor * 1e3:.0f} ms, {100 * floor / seconds:.0f}% of the step."
        )
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--backbone", default="R50", choices=tuple(TARGETS))
    parser.add_argument("--images", type=int, default=2, help="of a batch")
    parser.add_argument("--compiled", action="store_true", help="ours compiled, too: minutes more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="small images in one process, to try it out"
    )
    args = parser.parse_args()
    largest = recipe(args.backbone, args.device).INPUT.CROP.SIZE[0]
    sizes = [64, 96] if args.quick else [largest // 2, largest * 3 // 4, largest]
    names = [*NAMES, *([COMPILED, COMPILED_BF16] if args.compiled else [])]
    keep_freed_memory()

    options = (args.backbone, args.device, sizes[-1], args.images, names)
    results = []
    # First, as this process will not give back what the others need. On a GPU all are alike.
    if args.device == "cpu" and not args.quick:
        results = as_they_come(*options, args.rounds)
    steps = contenders(*options)
    kept = measure(steps, args.rounds, args.device)
    timings = kept[0].timings
    if args.device == "cuda":
        results = beside_peers("whole step", timings, (GPU_TARGET, GPU_TARGET))
    notes = remarks(steps, kept, args.device)
    del steps
    medians = {name: timing.median for name, timing in timings.items()}
    growths = [growth(args.backbone, args.device, sizes, args.images, medians)]
    report(
        "training_step",
        results + kept,
        growths,
        remarks=notes,
        device=args.device,
        variant="" if args.backbone == "R50" else args.backbone,
    )


if __name__ == "__main__":
    main()
