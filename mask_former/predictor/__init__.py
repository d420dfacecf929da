"""Predictors: from feature maps and learned queries to classes and masks."""

from mask_former.predictor.build import PREDICTOR_REGISTRY, build_predictor
from mask_former.predictor.single_scale import QueryMasks
from mask_former.predictor.standard import StandardPredictor

__all__ = ["PREDICTOR_REGISTRY", "QueryMasks", "StandardPredictor", "build_predictor"]
