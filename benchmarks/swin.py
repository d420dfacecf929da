"""Swin Transformer as a backbone: forward, and forward and backward.

    python -m benchmarks.swin [--device cuda] [--quick]

Swin-T, 512x512, batch 2; ours beside Detectron2's and that of `transformers`, with the same weights
and images and without drop path, then with activation checkpointing.
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import compare, is_native
from benchmarks.models import SMALL, our_model, plain_model, recipe
from benchmarks.peers.hugging_face import hugging_face_model
from benchmarks.report import Growth, Result, report
from mask_former.backbone.checkpointing import set_grad_checkpointing
from mask_former.engine.host_memory import keep_freed_memory

OURS, OURS_BF16 = "ours, float32", "ours, bfloat16"
CHECKPOINTED = "ours, float32, checkpointed"
DETECTRON2, DETECTRON2_BF16 = "Detectron2, float32", "Detectron2, bfloat16"
HUGGING_FACE = "`transformers`, float32"
BFLOAT16 = (OURS_BF16, DETECTRON2_BF16)
# Relative to the largest value of a map, and to the norm of all gradients.
TOLERANCE, TOLERANCE_BFLOAT16 = 1e-4, 0.1
Maps = list[Tensor]


def backbones(device: str, options: Sequence[Any] = ()) -> dict[str, Callable[[Tensor], Maps]]:
    """Swin Transformers, equal but for who wrote them, from an image to its maps."""
    cfg = recipe("swin", device, *options)
    model = our_model(cfg)
    ours = model.backbone
    detectron2 = plain_model(cfg, model.state_dict()).backbone
    peer = hugging_face_model(cfg, model.state_dict()).to(device)
    hugging_face = peer.model.model.pixel_level_module.encoder
    checkpointed = copy.deepcopy(ours)
    set_grad_checkpointing(checkpointed)
    contenders = {
        OURS: _Maps(ours),
        OURS_BF16: _Maps(ours, torch.bfloat16),
        CHECKPOINTED: _Maps(checkpointed),
        DETECTRON2: _Maps(detectron2),
        DETECTRON2_BF16: _Maps(detectron2, torch.bfloat16),
        HUGGING_FACE: _Maps(hugging_face),
    }
    native = is_native(torch.bfloat16, device)
    return {name: maps for name, maps in contenders.items() if native or name not in BFLOAT16}


class _Maps:
    """The list of maps that a backbone makes of images."""

    def __init__(self, backbone: nn.Module, amp_dtype: torch.dtype | None = None) -> None:
        self.backbone, self.amp_dtype = backbone.train(), amp_dtype

    def __call__(self, images: Tensor) -> Maps:
        dtype, enabled = self.amp_dtype or torch.bfloat16, self.amp_dtype is not None
        with torch.autocast(images.device.type, dtype=dtype, enabled=enabled):
            outputs = self.backbone(images)
        return list(outputs.feature_maps if hasattr(outputs, "feature_maps") else outputs.values())


def forward(maps: Callable[[Tensor], Maps], images: Tensor) -> Maps:
    with torch.no_grad():
        return maps(images)


def step(maps: _Maps, images: Tensor) -> list[Tensor]:
    """Forward and backward; returns the maps, and the norm of all gradients."""
    outputs = maps(images)
    # The mean of a normalized map is constant, and has no gradient.
    sum(x.float().square().mul(x.float()).mean() for x in outputs).backward()
    norms = [p.grad.norm() for p in maps.backbone.parameters() if p.grad is not None]
    maps.backbone.zero_grad()
    return [*(x.detach() for x in outputs), torch.stack(norms).norm()]


def check(contenders: Mapping[str, _Maps], images: Tensor) -> dict[str, str]:
    """How far each is from ours; an error unless it is equal to rounding."""
    expected = step(contenders[OURS], images)
    found = {}
    for name, maps in contenders.items():
        results = zip(step(maps, images), expected, strict=True)
        difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in results)
        if name != OURS:
            found[name] = f"{difference:.0e}"
        if difference > (TOLERANCE_BFLOAT16 if name in BFLOAT16 else TOLERANCE):
            raise SystemExit(f"{name} differs from ours by {difference}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    args = parser.parse_args()
    sizes = [64] if args.quick else [256, 384, 512]
    keep_freed_memory()

    contenders = backbones(args.device, SMALL if args.quick else ())
    cases: dict[str, Callable[[_Maps, Tensor], list[Tensor]]] = {
        "forward": forward,
        "forward and backward": step,
    }
    growth: dict[str, list[float]] = {name: [] for name in contenders}
    results: list[Result] = []
    for size in sizes:
        images = torch.randn(2, 3, size, size, device=args.device)
        largest = size == sizes[-1]
        agreement = check(contenders, images)
        for case, run in cases.items():
            if not largest and run is forward:
                continue
            runs = {n: lambda m=m, run=run, x=images: run(m, x) for n, m in contenders.items()}
            rounds = args.rounds if largest else 2
            timings = compare(
                runs, rounds=rounds, warmup=1, memory=largest and not args.quick, device=args.device
            )
            if largest:
                results.append(Result(f"{case}, {size}x{size}", OURS, timings, agreement))
            if run is step:
                for name, timing in timings.items():
                    growth[name].append(timing.median)
    growths = [Growth("height and width of the images", sizes, growth)]
    report("swin", results, growths, device=args.device)


if __name__ == "__main__":
    main()
