"""Whole panoptic inference of an image: network and post-processing.

    python -m benchmarks.model_inference [--device cuda] [--quick]

COCO's panoptic R50 recipe with its 6 encoder layers, an image of 800x1200; ours beside a plain
transcription of the paper with the same weights, and beside the `transformers` implementation,
which has no encoder, with the same recipe without encoder. A dozen queries are confident.
"""

import argparse
from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import MaskFormerImageProcessor
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerForInstanceSegmentationOutput,
)

from benchmarks.measure import Timing, compare, matrix_rate
from benchmarks.models import our_model, plain_model, recipe
from benchmarks.peers import plain_inference
from benchmarks.peers.hugging_face import HuggingFaceMaskFormer
from benchmarks.processes import in_processes
from benchmarks.report import Growth, Result, report
from mask_former.engine.host_memory import keep_freed_memory
from mask_former.scaling import Sizes
from mask_former.structures import Prediction

OURS, FAST = "ours, float32", "ours, float32, fastest order"
COMPILED, BF16 = "ours, float32, compiled", "ours, bfloat16, fastest order"
HUGGING_FACE, PLAIN = "`transformers`, float32", "plain, float32"
WITH_ENCODER = (FAST, OURS, BF16, COMPILED, PLAIN)
WITHOUT_ENCODER = (FAST, OURS, BF16, HUGGING_FACE, PLAIN)
NO_ENCODER = ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"]
NO_ENCODER += ["MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5"]
NO_ENCODER += ["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "0"]
SEGMENTS, OVERLAP_THRESHOLD = 12, 0.0
MASK_TOLERANCE, MASK_TOLERANCE_BF16 = 1e-4, 0.1
PIXEL_TOLERANCE = 1e-2
Size = tuple[int, int]


class Inference:
    """One contender; a call segments the image.

    Args:
        encoder: with the recipe's encoder layers.
        threshold: least score of a query; None: such that `SEGMENTS` queries have more.
    """

    def __init__(
        self, name: str, device: str, size: Size, encoder: bool, threshold: float | None = None
    ) -> None:
        published = name not in (FAST, COMPILED, BF16)
        options = ["MODEL.PUBLISHED_ROUNDING", str(published)]
        options += ["MODEL.COMPILE", str(name == COMPILED)] + ([] if encoder else NO_ENCODER)
        options += ["MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False"]
        options += ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", str(OVERLAP_THRESHOLD)]
        self.name, self.size, self.encoder = name, size, encoder
        cfg = recipe("panoptic R50", device, *options)
        self.ours = our_model(cfg).eval()
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        self.batch = [{"image": image, "height": size[0], "width": size[1]}]
        self.model: nn.Module = self.ours
        if name == PLAIN:
            self.model = plain_model(cfg, self.ours.state_dict()).eval()
        elif name == HUGGING_FACE:
            self.model = HuggingFaceMaskFormer(cfg, self.ours.state_dict()).to(device).eval()
        self.autocast = torch.autocast(device, torch.bfloat16) if name == BF16 else nullcontext()
        self.ours.object_mask_threshold = self._threshold() if threshold is None else threshold

    def _threshold(self) -> float:
        logits = self.network().class_logits[0].float()
        scores, labels = logits.softmax(-1).max(-1)
        scores = scores[labels < logits.shape[-1] - 1].sort(descending=True).values
        return scores[SEGMENTS - 1 : SEGMENTS + 1].mean().item()

    @torch.no_grad()
    def network(self) -> Prediction:
        with self.autocast:
            images = self.ours.preprocess(self.batch).tensor
            if self.model is self.ours:
                return self.ours.sem_seg_head(self.ours.backbone(images))[-1]
            return self.model(images)[-1]

    @torch.no_grad()
    def segment(self, prediction: Prediction) -> Tensor:
        """The panoptic map."""
        if self.model is self.ours:
            images = self.ours.preprocess(self.batch)
            return self.ours.postprocess(prediction, images, self.batch)[0]["panoptic_seg"][0]
        if self.name == HUGGING_FACE:
            return self._hugging_face(prediction)
        return plain_inference.panoptic(
            prediction.class_logits[0],
            prediction.mask_logits[0],
            Sizes(self.size, self.size, self.size),
            thing_classes=self.ours.thing_classes,
            object_threshold=self.ours.object_mask_threshold,
            overlap_threshold=OVERLAP_THRESHOLD,
        )[0]

    def _hugging_face(self, prediction: Prediction) -> Tensor:
        outputs = MaskFormerForInstanceSegmentationOutput(
            class_queries_logits=prediction.class_logits,
            masks_queries_logits=prediction.mask_logits,
        )
        classes = prediction.class_logits.shape[-1] - 1
        (found,) = MaskFormerImageProcessor().post_process_panoptic_segmentation(
            outputs,
            threshold=self.ours.object_mask_threshold,
            overlap_mask_area_threshold=OVERLAP_THRESHOLD,
            label_ids_to_fuse=set(range(classes)) - set(self.ours.thing_classes),
            target_sizes=[self.size],
        )
        return found["segmentation"]

    def __call__(self) -> Tensor:
        return self.segment(self.network())


def check(contenders: dict[str, Inference]) -> dict[str, str]:
    """How masks (relative norm) and maps (pixels) differ from those of the default; an error if
    it is too much. With random weights the masks of queries are close, and so is every decision:
    only in float32 are maps to be the same."""
    masks, maps, found = {}, {}, {}
    for name, contender in contenders.items():
        masks[name] = (prediction := contender.network()).mask_logits.float()
        maps[name] = _classes(contender.segment(prediction))
    for name in maps.keys() - {OURS}:
        distance = ((masks[name] - masks[OURS]).norm() / masks[OURS].norm()).item()
        share = (maps[name] != maps[OURS]).float().mean().item()
        found[name] = f"masks {distance:.0e}, {100 * share:.2g}% of pixels"
        differs = name not in (HUGGING_FACE, BF16) and share > PIXEL_TOLERANCE
        if differs or distance > (MASK_TOLERANCE_BF16 if name == BF16 else MASK_TOLERANCE):
            raise SystemExit(f"{name} differs: {found[name]}")
    return found


def _classes(panoptic_map: Tensor) -> Tensor:
    """The map with segments numbered in the order in which they appear."""
    _, first_seen = panoptic_map.unique(return_inverse=True)
    flat = first_seen.flatten()
    size = int(flat.max()) + 1
    position = torch.full((size,), flat.numel(), device=flat.device)
    places = torch.arange(flat.numel(), device=flat.device)
    position.scatter_reduce_(0, flat, places, "amin")
    return position.argsort().argsort()[first_seen]


def measure(
    names: Collection[str], device: str, size: Size, rounds: int, case: str, encoder: bool
) -> list[Result]:
    """Whole inference with freed memory kept by all, and its two parts."""
    threshold = Inference(OURS, device, size, encoder).ours.object_mask_threshold
    contenders = {name: Inference(name, device, size, encoder, threshold) for name in names}
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
    threshold = Inference(OURS, device, size, True).ours.object_mask_threshold
    names = WITH_ENCODER
    make = {name: partial(Inference, name, device, size, True, threshold) for name in names}
    with in_processes(make, keep=frozenset(names) - {PLAIN}) as runs:
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
        contenders = {name: Inference(name, device, size, True) for name in names}
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
            Inference(name, device, size, True, threshold=0.0).network()
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
    results = [] if args.quick else as_they_come(*options)
    kept = measure([n for n in WITH_ENCODER if n != COMPILED], *options, "whole inference", True)
    results += kept
    results += measure(WITHOUT_ENCODER, *options, "without encoder", False)[:1]
    timings = kept[0].timings
    remarks = floor(args.device, sizes[-1], timings)
    growths = [growth(args.device, sizes, timings)]
    report("model_inference", results, growths, remarks=remarks, device=args.device)


if __name__ == "__main__":
    main()
