"""Export the network of a trained model as one graph, for programs that have no Python.

    python -m tools.export_model --config-file CONFIG --input-size 512 512 model.onnx \\
        MODEL.WEIGHTS model_final.pth

writes ONNX, and a file named .pt2 what `torch.export.load` reads. The graph takes `images`, float32
(1, 3, H, W) of that size with values in 0..255 and channels as INPUT.FORMAT says, and gives the
class and mask logits of all queries or, for models that classify pixels, the logits of the classes;
docs/EXPORT.md says what becomes of them. It is run on a random image, and must give what the model
gives.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

import mask_former.data  # noqa: F401 (registers the data sets)
from mask_former.checkpoint import MaskFormerCheckpointer
from mask_former.checkpoint.atomic_write import explained_write_errors
from mask_former.engine import build_model, load_config, reported_errors
from mask_former.errors import UserError
from mask_former.meta_arch import MaskFormer

TOLERANCE = 1e-4  # of the largest value
OF_QUERIES = ("class_logits", "mask_logits")
OF_PIXELS = ("sem_seg",)
# Calls what was exported.
Graph = Callable[[Tensor], Sequence[Tensor]]


class Network(nn.Module):
    """From images to logits, without what depends on what is found.

    Args:
        model: a `MaskFormer`, or Detectron2's `SemanticSegmentor` with a head of ours.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.outputs = OF_QUERIES if isinstance(model, MaskFormer) else OF_PIXELS

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W), 0..255 -> class logits (1, Q, K+1) and mask logits (1, Q, h, w), or
        logits of the classes (1, K, H, W)."""
        model = self.model
        images = (images - model.pixel_mean) / model.pixel_std
        if self.outputs == OF_QUERIES:
            prediction = model.predict(images)[-1]
            return prediction.class_logits, prediction.mask_logits
        logits, _ = model.sem_seg_head(model.backbone(images))
        return (logits,)


def build_network(cfg: CfgNode, size: tuple[int, int]) -> Network:
    """The network of `cfg` with its weights, on the CPU and in eval mode.

    Args:
        size: height and width of the images.

    Raises:
        UserError: there are no weights, or they do not fit; the model is neither of the two of
            `Network`, or would pad such images.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # The network is the same for all tasks; the others would need the data set.
    test = cfg.MODEL.MASK_FORMER.TEST
    test.SEMANTIC_ON, test.PANOPTIC_ON, test.INSTANCE_ON = True, False, False
    if not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.WEIGHTS is empty; set it to the weights of a trained model.")
    model = build_model(cfg)
    if not isinstance(model, MaskFormer | SemanticSegmentor):
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; exported are MaskFormer "
            "and Detectron2's SemanticSegmentor."
        )
    MaskFormerCheckpointer(model, accept_backbone=False).load(cfg.MODEL.WEIGHTS, [])
    divisor = max(1, getattr(model, "size_divisibility", model.backbone.size_divisibility))
    expected = tuple(max(1, -(-side // divisor)) * divisor for side in size)
    if expected != size:
        raise UserError(
            f"--input-size is {size[0]} {size[1]}, but this model pads such images to "
            f"{expected[0]} {expected[1]}: give that size, and pad images below and on the right."
        )
    return Network(model).eval()


@torch.no_grad()
def export(network: Network, size: tuple[int, int], file: str) -> float:
    """Write a network to a file, and compare the two.

    Args:
        size: height and width of the images.
        file: its suffix is one of `WRITERS`.

    Returns:
        the largest difference of an output for a random image, relative to its largest value.

    Raises:
        UserError: another suffix; a package is missing; the file cannot be written, or computes
            something else.
    """
    writer = WRITERS.get(Path(file).suffix.lower())
    if writer is None:
        raise UserError(f"{file}: networks are exported to files named {', '.join(WRITERS)}.")
    with explained_write_errors(file):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        graph = writer(network, 255 * torch.rand(1, 3, *size), file)
    images = 255 * torch.rand(1, 3, *size)
    expected = network(images)
    differences = [
        (found - own).abs().max() / own.abs().max()
        for found, own in zip(graph(images), expected, strict=True)
    ]
    difference = torch.stack(differences).max().item()  # NaN if one is
    if not difference <= TOLERANCE:
        raise UserError(
            f"{file} is written, but differs from the model by {difference:.1e} of the largest "
            "value. That is a fault of the exporter: try another version of PyTorch, or .pt2."
        )
    return difference


def _write_onnx(network: Network, images: Tensor, file: str) -> Graph:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (what PyTorch exports with)
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs the package {error.name}: run `pip install '.[onnx]'` in MaskFormer's "
            "checkout, or `pip install onnx onnxscript onnxruntime`."
        ) from error
    outputs = list(network.outputs)
    size = sum(weight.nbytes for weight in network.state_dict().values())
    torch.onnx.export(
        network,
        (images,),
        file,
        input_names=["images"],
        output_names=outputs,
        dynamo=True,
        # Weights in a second file, as one ends at 2 GiB.
        external_data=size > 2**30,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def graph(images: Tensor) -> list[Tensor]:
        found = session.run(outputs, {"images": np.asarray(images)})
        return [torch.from_numpy(x) for x in found]

    return graph


def _write_pt2(network: Network, images: Tensor, file: str) -> Graph:
    torch.export.save(torch.export.export(network, (images,)), file)
    return torch.export.load(file).module()


WRITERS = {".onnx": _write_onnx, ".pt2": _write_pt2}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", help="file to write, .onnx or .pt2")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--input-size", type=int, nargs=2, required=True, metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options, KEY VALUE ...")
    args = parser.parse_args(argv)
    size = tuple(args.input_size)
    network = build_network(load_config(args.config_file, args.opts), size)
    difference = export(network, size, args.output)
    print(
        f"{args.output}: images (1, 3, {size[0]}, {size[1]}) -> {', '.join(network.outputs)}; "
        f"differs from the model by {difference:.0e} of the largest value"
    )


if __name__ == "__main__":
    with reported_errors():
        main()
