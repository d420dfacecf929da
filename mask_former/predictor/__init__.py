"""Predictors: from the pixel decoder's features to classes and masks."""

from mask_former.predictor.build import PREDICTOR_REGISTRY, build_predictor
from mask_former.predictor.mask_head import MaskHead
from mask_former.predictor.masked_attention import MultiScaleMaskedTransformerDecoder
from mask_former.predictor.prototype_attention import PrototypeTransformerDecoder
from mask_former.predictor.single_scale import SingleScaleQueries
from mask_former.predictor.standard import StandardPredictor, StandardTransformerDecoder

__all__ = [
    "PREDICTOR_REGISTRY",
    "MaskHead",
    "MultiScaleMaskedTransformerDecoder",
    "PrototypeTransformerDecoder",
    "SingleScaleQueries",
    "StandardPredictor",
    "StandardTransformerDecoder",
    "build_predictor",
]
