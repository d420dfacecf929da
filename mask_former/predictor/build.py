"""The registry of predictors."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

PREDICTOR_REGISTRY = Registry("PREDICTOR")
PREDICTOR_REGISTRY.__doc__ = """
Predictors, by the name in `MODEL.MASK_FORMER.PREDICTOR_NAME`. A predictor

* is made by `Predictor(cfg, input_shape)`, with the pixel decoder's `output_shape()`, in which it
  finds the maps that it attends to;
* maps `structures.PixelFeatures` to a list of `structures.Prediction`, one for every supervised
  decoder layer; the last is the final one.
"""


def build_predictor(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the predictor that `MODEL.MASK_FORMER.PREDICTOR_NAME` names."""
    return PREDICTOR_REGISTRY.get(cfg.MODEL.MASK_FORMER.PREDICTOR_NAME)(cfg, input_shape)
