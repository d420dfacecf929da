"""What the benchmarks of whole models share: recipes, weights, images with segments."""

import argparse
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model, build_resnet_backbone
from detectron2.modeling.backbone.swin import SwinTransformer
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import exact_float32
from benchmarks.peers.plain_network import PlainMaskFormer
from mask_former.engine import load_config

RECIPES = {
    "R50": "configs/ade20k-150/maskformer_R50_bs16_160k.yaml",
    "swin": "configs/ade20k-150/swin/maskformer_swin_tiny_bs16_160k.yaml",
    "swin_large": "configs/ade20k-150/swin/maskformer_swin_large_IN21k_384_bs16_160k_res640.yaml",
    "panoptic R50": "configs/coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml",
    "panoptic swin": "configs/coco-panoptic/swin/maskformer_panoptic_swin_tiny_bs64_554k.yaml",
    "panoptic swin_large": (
        "configs/coco-panoptic/swin/maskformer_panoptic_swin_large_IN21k_384_bs64_554k.yaml"
    ),
    "mask2former R50": (
        "configs/mask2former/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml"
    ),
    "mask2former swin": (
        "configs/mask2former/ade20k/semantic-segmentation/swin/maskformer2_swin_tiny_bs16_160k.yaml"
    ),
    "panoptic mask2former R50": (
        "configs/mask2former/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
    ),
    "panoptic mask2former swin": (
        "configs/mask2former/coco/panoptic-segmentation/swin/maskformer2_swin_tiny_bs16_50ep.yaml"
    ),
}
MODELS = ("maskformer", "mask2former")
BACKBONES = ("R50", "swin", "swin_large")
# Whatever makes two runs differ.
WITHOUT_CHANCE = ["MODEL.MASK_FORMER.DROPOUT", "0.0", "MODEL.SWIN.DROP_PATH_RATE", "0.0"]

# Of `--quick`: networks of the same kind that take milliseconds.
SMALL = ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.WIDTH_PER_GROUP", 16)
SMALL += ("MODEL.SWIN.EMBED_DIM", 48, "MODEL.SWIN.DEPTHS", (2, 2, 2, 2))
SMALL += ("MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)
SMALL += ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 20)


def recipe(name: str, device: str, *options: Any) -> CfgNode:
    """A recipe without its weights and without dropout."""
    exact_float32()
    keys = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *WITHOUT_CHANCE]
    return load_config(RECIPES[name], [*keys, *map(str, options)])


def task_name(model: str, backbone: str) -> str:
    """The name in `RECIPES` of the semantic recipe of a model."""
    name = backbone if model == "maskformer" else f"{model} {backbone}"
    if name not in RECIPES:
        raise SystemExit(f"there is no benchmark of {model} with {backbone}")
    return name


def variant(args: argparse.Namespace) -> str:
    """What `--model`, `--backbone` and `--compiled` chose, but for the defaults."""
    chosen = [args.model] * (args.model != "maskformer") + [args.backbone] * (
        args.backbone != "R50"
    )
    return "_".join(chosen + ["compiled"] * args.compiled)


def precision_keys(dtype: str) -> list[str]:
    """Config keys and values for float32 or bfloat16, in training and in inference."""
    mixed = str(dtype != "float32")
    keys = ["SOLVER.AMP.ENABLED", mixed, "TEST.PRECISION", dtype]
    return keys if mixed == "False" else [*keys, "SOLVER.AMP.DTYPE", dtype]


def our_model(cfg: CfgNode) -> nn.Module:
    """With random weights, whose gradients can be compared, and in frozen norms the statistics of
    a network of that kind."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(1.5, 2.5)  # keeps the residual stream from growing
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            # At the pixels' centers, where it begins, bilinear sampling has one slope or another.
            parameter.data.add_(torch.rand_like(parameter), alpha=0.5)
    return model


def plain_model(cfg: CfgNode, weights: dict[str, Tensor]) -> PlainMaskFormer:
    """The plain transcription with weights of ours."""
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        keys = cfg.MODEL.SWIN
        backbone: nn.Module = PlainSwin(
            embed_dim=keys.EMBED_DIM,
            depths=keys.DEPTHS,
            num_heads=keys.NUM_HEADS,
            window_size=keys.WINDOW_SIZE,
            drop_path_rate=0.0,
            out_indices=(0, 1, 2, 3),
        )
        channels = [keys.EMBED_DIM * 2**i for i in range(4)]
    else:
        shape = type("Shape", (), {"channels": 3})
        backbone = build_resnet_backbone(cfg, shape)
        channels = [s.channels for s in backbone.output_shape().values()]
    model = PlainMaskFormer(
        backbone,
        channels,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        num_queries=cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
        encoder_layers=encoder_layers(cfg),
        decoder_layers=cfg.MODEL.MASK_FORMER.DEC_LAYERS,
    )
    model.load_state_dict(weights)
    return model.to(cfg.MODEL.DEVICE)


def encoder_layers(cfg: CfgNode) -> int:
    """How many the pixel decoder has; not every pixel decoder reads the key."""
    head = cfg.MODEL.SEM_SEG_HEAD
    has_encoder = head.PIXEL_DECODER_NAME == "TransformerEncoderPixelDecoder"
    return head.TRANSFORMER_ENC_LAYERS if has_encoder else 0


class PlainSwin(SwinTransformer):
    """Detectron2's Swin Transformer under the names of ours."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {f"res{int(name[1:]) + 2}": y for name, y in super().forward(x).items()}


def make_batch(
    size: tuple[int, int], *, images: int, segments: int, classes: int
) -> list[dict[str, Any]]:
    """Random images with segments of different classes that cover them, from 16 x 16 cells."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(images):
        cells = torch.rand(1, segments, 16, 16, generator=generator)
        owner = F.interpolate(cells, size=size, mode="bilinear")[0].argmax(0)
        masks = owner == torch.arange(segments)[:, None, None]
        labels = torch.randperm(classes, generator=generator)[:segments]
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        instances = Instances(size, gt_classes=labels, gt_masks=BitMasks(masks))
        batch.append({"image": image, "instances": instances})
    return batch
