"""The registry of pixel decoders."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

PIXEL_DECODER_REGISTRY = Registry("PIXEL_DECODER")
PIXEL_DECODER_REGISTRY.__doc__ = """
Pixel decoders, by the name in `MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME`. A pixel decoder

* is made by `Decoder(cfg, input_shape)`, with the backbone's `output_shape()`;
* maps the backbone's features, {name: (B, C, h, w)}, to `structures.PixelFeatures`;
* has `output_shape()`, the `ShapeSpec` of every map in `PixelFeatures.maps`.
"""


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the pixel decoder that `MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME` names."""
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    return PIXEL_DECODER_REGISTRY.get(name)(cfg, input_shape)
