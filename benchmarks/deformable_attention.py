"""Multi-scale deformable attention: forward, and forward and backward.

    python -m benchmarks.deformable_attention [--device cuda] [--quick]

As a layer of Mask2Former's pixel decoder has it, whose queries are the pixels of its three maps:
training at 512x512, batch 2, and inference at 800x1216. Ours beside that of `transformers`, which
samples with `grid_sample`, then multiplies and sums. With the same weights, in float32, as the
decoder computes it in mixed precision, too.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as HuggingFaceAttention,
)

from benchmarks.inference import HUGGING_FACE, OURS
from benchmarks.measure import Timing, allocators, compare, exact_float32
from benchmarks.report import Growth, Result, agreement, growth, report
from mask_former.layers import MultiScaleDeformableAttention

SHAPE = (256, 8, 3, 4)  # channels, heads, maps and points, of all published models
STRIDES = (32, 16, 8)
# Relative to the largest value, of the output and of each gradient.
TOLERANCE = 1e-4


class Attention:
    """One contender and its inputs; a call gives its output, and with `learns` all gradients."""

    def __init__(self, module: nn.Module, size: tuple[int, int], images: int, learns: bool) -> None:
        self.module, self.learns = module, learns
        device = module.output_proj.weight.device
        self.sizes = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
        self.reference = torch.cat([_centers(*size) for size in self.sizes]).to(device)
        generator = torch.Generator().manual_seed(0)
        shape = (3, images, len(self.reference), SHAPE[0])
        self.query, self.value, self.grad = torch.randn(shape, generator=generator).to(device)

    def __call__(self) -> list[Tensor]:
        with torch.set_grad_enabled(self.learns):
            inputs = [x.detach().requires_grad_(self.learns) for x in (self.query, self.value)]
            output = self.attend(*inputs)
        if not self.learns:
            return [output]
        learned = [*inputs, *self.module.parameters()]
        return [output, *torch.autograd.grad(output, learned, self.grad)]

    def attend(self, query: Tensor, value: Tensor) -> Tensor:
        return self.module(query, self.reference, value, self.sizes)


class TheirAttention(Attention):
    def attend(self, query: Tensor, value: Tensor) -> Tensor:
        reference = self.reference[None, :, None].expand(len(query), -1, len(self.sizes), -1)
        return self.module(
            query,
            encoder_hidden_states=value,
            reference_points=reference,
            spatial_shapes_list=self.sizes,
        )[0]


def contenders(
    device: str, size: tuple[int, int], images: int, learns: bool
) -> dict[str, Callable[[], list[Tensor]]]:
    """With the same weights, by which a query looks some pixels away."""
    torch.manual_seed(0)
    ours = MultiScaleDeformableAttention(*SHAPE)
    for layer in (ours.sampling_offsets, ours.attention_weights):
        nn.init.normal_(layer.weight, std=0.1)
    theirs = HuggingFaceAttention(*SHAPE)
    theirs.load_state_dict(ours.state_dict())
    return {
        OURS: Attention(ours.to(device), size, images, learns),
        HUGGING_FACE: TheirAttention(theirs.to(device), size, images, learns),
    }


def check(runs: dict[str, Callable[[], list[Tensor]]]) -> dict[str, str]:
    """How output and gradients differ from ours, which they must not."""
    pairs = zip(runs[HUGGING_FACE](), runs[OURS](), strict=True)
    largest = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    return {HUGGING_FACE: agreement(f"{largest:.0e}", holds=largest <= TOLERANCE)}


def over_image_sizes(device: str) -> Growth:
    """How the time grows with the images, forward and backward."""

    def timings_at(size: int) -> dict[str, Timing]:
        runs = contenders(device, (size, size), 2, True)
        return compare(runs, rounds=2, warmup=1, memory=False, device=device)

    return growth("height and width of the images", [256, 512, 1024], timings_at)


def _centers(height: int, width: int) -> Tensor:
    """Of the pixels of a map that covers [0, 1] x [0, 1], (x, y), (height * width, 2)."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack((x, y), -1).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--images", type=int, default=2, help="of a batch in training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-growth", action="store_true", help="no other sizes, no plot")
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    args = parser.parse_args()
    exact_float32()
    large = (64, 64) if args.quick else (512, 512), (96, 128) if args.quick else (800, 1216)
    cases = {
        f"forward and backward, {large[0][0]}x{large[0][1]}": (large[0], args.images, True),
        f"forward, {large[1][0]}x{large[1][1]}": (large[1], 1, False),
    }
    runs = {case: contenders(args.device, *inputs) for case, inputs in cases.items()}
    differences = {case: check(of_case) for case, of_case in runs.items()}
    results = [
        Result(
            case + allocator,
            OURS,
            compare(of_case, rounds=args.rounds, memory=not args.quick, device=args.device),
            differences[case],
        )
        for allocator in allocators(args.device, quick=args.quick)
        for case, of_case in runs.items()
    ]
    growths = []
    if not (args.quick or args.no_growth):
        growths = [over_image_sizes(args.device)]
    report("deformable_attention", results, growths, device=args.device)


if __name__ == "__main__":
    main()
