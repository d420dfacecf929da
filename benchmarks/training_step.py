"""A whole training step: network forward, matching, losses, backward, optimizer.

    python -m benchmarks.training_step [--backbone swin] [--device cuda] [--quick]

ADE20K's semantic recipe (512x512, batch 2, 6 layers, 10 segments an image), ours beside the
`transformers` implementation and a plain transcription of the paper, with the same weights and
images. Dropout is off, so that losses and gradients can be compared.
"""

import argparse
from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Timing, compare, matrix_rate
from benchmarks.models import make_batch, our_model, recipe
from benchmarks.processes import in_processes
from benchmarks.report import Growth, Result, report
from benchmarks.steps import PARTS, Clock, HuggingFaceStep, OurStep, PlainStep, Step
from mask_former.engine.host_memory import keep_freed_memory

OURS, FAST, BF16 = "ours, float32", "ours, float32, fastest order", "ours, bfloat16, fastest order"
HUGGING_FACE, PLAIN = "`transformers`, float32", "plain, float32"
PEERS = (HUGGING_FACE, PLAIN)
NAMES = (FAST, OURS, BF16, *PEERS)
TARGETS = {"R50": (1.5, 2.5), "swin": (1.5, 2.2)}
# Relative. A ReLU whose input is 0 but for rounding has one gradient or another.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3


def contenders(
    backbone: str, device: str, size: int, names: Collection[str] = NAMES
) -> dict[str, Step]:
    """Steps on the same images from the same weights."""
    cfg = recipe(backbone, device)
    fast = recipe(backbone, device, "MODEL.PUBLISHED_ROUNDING", "False")
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    batch = make_batch((size, size), images=2, segments=10, classes=classes)
    model = our_model(cfg)
    make = {
        FAST: lambda: OurStep(fast, our_model(fast), batch, Clock(device)),
        OURS: lambda: OurStep(cfg, model, batch, Clock(device)),
        BF16: lambda: OurStep(fast, our_model(fast), batch, Clock(device), torch.bfloat16),
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
    done = {name: len(step.clock.steps) + 1 for name, step in steps.items()}  # one to warm up
    timings = compare(steps, rounds=rounds, warmup=1, device=device)
    results = [Result("whole step, freed memory kept by all", FAST, timings, agreement)]
    for part in PARTS:
        parts = {
            name: Timing([s[part] for s in step.clock.steps[done[name] :][:rounds]])
            for name, step in steps.items()
        }
        results.append(Result(part, FAST, parts))
    return results


def one(name: str, backbone: str, device: str, size: int) -> Step:
    return contenders(backbone, device, size, [name])[name]


def as_they_come(backbone: str, device: str, size: int, rounds: int) -> list[Result]:
    """The whole step where ours keeps freed memory, as our training does, and peers do not."""
    make = {name: partial(one, name, backbone, device, size) for name in NAMES}
    with in_processes(make, keep=frozenset({FAST, OURS, BF16})) as steps:
        timings = compare(steps, rounds=rounds, warmup=2, memory=False, device=device)
    target, target_bf16 = TARGETS[backbone]
    case = "whole step, each as it comes"
    return [
        Result.beside(case, OURS, timings, PEERS, target=f">= {target}"),
        Result.beside("fastest order", FAST, timings, PEERS, target=f">= {target}"),
        Result.beside("bfloat16", BF16, timings, PEERS, target=f">= {target_bf16}"),
    ]


def growth(backbone: str, device: str, sizes: list[int], seconds: dict[str, float]) -> Growth:
    """Over the size of the images; of the last one, `seconds` are known."""
    names = (FAST, BF16, PLAIN)
    times: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes[:-1]:
        steps = contenders(backbone, device, size, names)
        timings = compare(steps, rounds=2, warmup=1, memory=False, device=device)
        for name, timing in timings.items():
            times[name].append(timing.median)
    return Growth(
        "height and width of the images", sizes, {n: [*times[n], seconds[n]] for n in names}
    )


def floor(step: Step, timings: Mapping[str, Timing], device: str) -> list[str]:
    """What the multiply-adds of a step take at the rate of large matrix products."""
    with FlopCounterMode(display=False) as counter:
        step.loss_and_gradients()
    multiply_adds = counter.get_total_flops() / 2
    remarks = []
    for name, dtype in ((FAST, torch.float32), (BF16, torch.bfloat16)):
        rate = matrix_rate(dtype, device=device)
        seconds = multiply_adds / rate
        remarks.append(
            f"{name}: {multiply_adds / 1e9:.0f} G multiply-adds at {rate / 1e9:.0f} G a second "
            f"(measured) are {seconds * 1e3:.0f} ms, "
            f"{100 * seconds / timings[name].median:.0f}% of the step."
        )
    return remarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--backbone", default="R50", choices=tuple(TARGETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="small images in one process, to try it out"
    )
    args = parser.parse_args()
    sizes = [64, 96] if args.quick else [256, 384, 512]
    keep_freed_memory()

    # First, as this process will not give back what the others need.
    results = []
    if not args.quick:
        results = as_they_come(args.backbone, args.device, sizes[-1], args.rounds)
    steps = contenders(args.backbone, args.device, sizes[-1])
    kept = measure(steps, args.rounds, args.device)
    timings = kept[0].timings
    remarks = floor(steps[OURS], timings, args.device)
    del steps
    medians = {name: timing.median for name, timing in timings.items()}
    growths = [growth(args.backbone, args.device, sizes, medians)]
    variant = "" if args.backbone == "R50" else args.backbone
    report(
        "training_step",
        results + kept,
        growths,
        remarks=remarks,
        device=args.device,
        variant=variant,
    )


if __name__ == "__main__":
    main()
