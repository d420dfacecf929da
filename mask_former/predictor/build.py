"""The registry of predictors."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

from mask_former.config import MASK2FORMER_PREDICTOR, PEM_PIXEL_DECODER, PEM_PREDICTOR
from mask_former.errors import check_choice

logger = logging.getLogger(__name__)

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
    _warn_of_configs_of_others(cfg)
    return PREDICTOR_REGISTRY.get(keys[key])(cfg, memory_shape)


def _warn_of_configs_of_others(cfg: CfgNode) -> None:
    """Detectron2 merges a config of Mask2Former's or PEM's repository into ours, and nothing tells
    what it left to the defaults there."""
    keys = cfg.MODEL.MASK_FORMER
    name = f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME {keys.TRANSFORMER_DECODER_NAME}"
    if keys.TRANSFORMER_DECODER_NAME and (keys.MASK_LOSS, keys.TRAIN_NUM_POINTS) == ("focal", 0):
        logger.warning(
            "%s is Mask2Former's key, but MASK_LOSS focal and TRAIN_NUM_POINTS 0 are MaskFormer's "
            "defaults. mask_former.engine.load_config completes a config of Mask2Former's "
            "repository by its own defaults, and add_maskformer2_config sets them for "
            "merge_from_file; add_mask_former_config does not.",
            name,
        )
    pixel_decoder = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    if (pixel_decoder, keys.TRANSFORMER_DECODER_NAME) == (PEM_PIXEL_DECODER, MASK2FORMER_PREDICTOR):
        logger.warning(
            "%s is Mask2Former's predictor, behind PEM's pixel decoder. PEM's predictor, which has "
            "that name in PEM's repository, is %s here, as mask_former.engine.load_config knows.",
            name,
            PEM_PREDICTOR,
        )
