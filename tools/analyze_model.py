"""Count a model's parameters, multiply-adds and activations, module by module.

    python -m tools.analyze_model --config-file configs/ade20k-150/maskformer_R50_bs16_160k.yaml

Multiply-adds are those of one image: convolutions, matrix products and attention of the network and
of semantic inference; normalisations and activation functions are left out, as in the paper, and so
is bilinear sampling: of deformable attention its linear layers count, of a deformable convolution
what a convolution costs. They are derived from shapes, without weights or computation. Below the
table is the count by the published convention, see `published_multiply_adds`.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import mask_former.data  # noqa: F401 (registers the data sets)
from mask_former.engine import load_config, reported_errors
from mask_former.engine.memory import build_without_weights
from mask_former.meta_arch import MaskFormer


@dataclass(frozen=True)
class Cost:
    """The cost of a module, with all its submodules.

    Attributes:
        parameters: number of parameters; buffers, such as frozen statistics, are none.
        multiply_adds: for one image.
        activations: size of the outputs of convolutions, matrix products and attention, for one
            image: a measure of memory and memory traffic.
    """

    parameters: int
    multiply_adds: int
    activations: int


def input_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width that a recipe's cost is stated for: its training crop or, where crops have
    no fixed size, its window in a test or its largest test image."""
    if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute":
        return tuple(cfg.INPUT.CROP.SIZE)
    if cfg.TEST.WINDOW.SIZE:
        return cfg.TEST.WINDOW.SIZE, cfg.TEST.WINDOW.SIZE
    return cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST


# As published. Without gradients the queries may be multiplied with the last kernels instead.
@torch.enable_grad()
def analyze(model: nn.Module, size: tuple[int, int]) -> dict[str, Cost]:
    """The cost of `model`, in eval mode, for an image of `size` (height, width).

    Args:
        model: takes Detectron2's list of dictionaries; on the meta device, or on any other.

    Returns:
        costs by the names of the modules in `model`, that of the whole model under "".
    """
    device = next(model.parameters()).device
    image = torch.zeros(3, *size, device=device)
    operations = FlopCounterMode(display=False)
    outputs = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(flop_registry, _numel))
    with operations, outputs:
        model([{"image": image, "height": size[0], "width": size[1]}])
    operations, activations = _by_module(operations, model), _by_module(outputs, model)
    return {
        name: Cost(
            sum(p.numel() for p in module.parameters()),
            # PyTorch counts multiplications and additions apart.
            operations[name] // 2,
            activations[name],
        )
        for name, module in model.named_modules()
    }


def published_multiply_adds(cfg: CfgNode, costs: Mapping[str, Cost], size: tuple[int, int]) -> int:
    """Multiply-adds by the published convention: they include the queries, keys, values and outputs
    of the padding of Swin's windows, and of semantic inference only the product of classes and
    masks at the size of the image.

    Args:
        cfg: of a MaskFormer.
        costs: of `analyze`.
        size: of the image (height, width).
    """
    network = costs["backbone"].multiply_adds + costs["sem_seg_head"].multiply_adds
    height, width = size
    pairs = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES * cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    total = network + pairs * height * width
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        swin = cfg.MODEL.SWIN
        for i, depth in enumerate(swin.DEPTHS):
            sides = height // 4 // 2**i, width // 4 // 2**i
            padded = [-(-side // swin.WINDOW_SIZE) * swin.WINDOW_SIZE for side in sides]
            tokens = math.prod(padded) - math.prod(sides)
            total += depth * tokens * 4 * (swin.EMBED_DIM * 2**i) ** 2
    return total


def _numel(*_: Any, out_shape: Any, **__: Any) -> int:
    """Formula for the counter: the size of an operation's first result."""
    return (out_shape if isinstance(out_shape, torch.Size) else out_shape[0]).numel()


@register_flop_formula(torch.ops.torchvision.deform_conv2d)
def _deformable_convolution(
    _: Any, weight: torch.Size, *__: Any, out_shape: Any, **___: Any
) -> int:
    """Formula for the counter: that of a convolution, without the interpolation of its inputs."""
    return 2 * out_shape.numel() * weight[1:].numel()


def _by_module(counter: FlopCounterMode, model: nn.Module) -> dict[str, int]:
    """Counts by the names of the modules in `model`."""
    # The counter's names begin with the model's class, where `model` has none.
    counts = {
        name.partition(".")[2]: sum(by_operation.values())
        for name, by_operation in counter.get_flop_counts().items()
        if name != "Global"
    }
    # A module that is not called itself has the counts of its children, which come after it.
    for name, module in reversed(list(model.named_modules())):
        if name not in counts:
            parts = [f"{name}.{part}".lstrip(".") for part, _ in module.named_children()]
            counts[name] = sum(counts[part] for part in parts)
    return counts


def cost_table(costs: Mapping[str, Cost], depth: int) -> str:
    """A table of the modules that lie at most `depth` deep, in the order of the model."""
    rows = []
    for name, cost in costs.items():
        level = len(name.split(".")) if name else 0
        if level <= depth and (cost.parameters or cost.multiply_adds):
            label = "  " * level + name.rpartition(".")[2] if name else "model"
            rows.append(
                (label, cost.parameters / 1e6, cost.multiply_adds / 1e9, cost.activations / 1e6)
            )
    headers = ["module", "parameters (M)", "multiply-adds (G)", "activations (M)"]
    return tabulate(rows, headers, tablefmt="simple", floatfmt=".3f", preserve_whitespace=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the image; default: the recipe's training crop, window or largest test image",
    )
    parser.add_argument("--depth", type=int, default=2, help="of the modules (default: 2)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options"
    )
    args = parser.parse_args(argv)
    with reported_errors():
        cfg = load_config(args.config_file, args.opts)
    size = tuple(args.input_size or input_size(cfg))
    print(f"{args.config_file}, one image of {size[0]} x {size[1]} (height x width)")
    model = build_without_weights(cfg)
    costs = analyze(model, size)
    print(cost_table(costs, args.depth))
    if isinstance(model, MaskFormer):
        published = published_multiply_adds(cfg, costs, size)
        print(f"Multiply-adds counted as published: {published / 1e9:.1f} G")


if __name__ == "__main__":
    main()
