"""The registry of predictors."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

from mask_former.errors import check_choice

PREDICTOR_REGISTRY = Registry("PREDICTOR")
PREDICTOR_REGISTRY.__doc__ = """
Predictors, by the name in `MODEL.MASK_FORMER.PREDICTOR_NAME`. A predictor

* is made by `Predictor(cfg, memory_shape)`, with the pixel decoder's `memory_shape`: the
  `ShapeSpec`s of the maps that it may attend to, from coarse to fine;
* maps `structures.PixelFeatures` to a list of `structures.Prediction`, one for every supervised
  decoder layer; the last is the final one.
"""


def build_predictor(cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> nn.Module:
    """Build the predictor that `MODEL.MASK_FORMER.PREDICTOR_NAME` names, or its other name.

    Raises:
        UserError: there is no such predictor.
    """
    keys = cfg.MODEL.MASK_FORMER
    key = "TRANSFORMER_DECODER_NAME" if keys.TRANSFORMER_DECODER_NAME else "PREDICTOR_NAME"
    check_choice(f"MODEL.MASK_FORMER.{key}", keys[key], dict(PREDICTOR_REGISTRY))
    return PREDICTOR_REGISTRY.get(keys[key])(cfg, memory_shape)
