"""Backbones beside Detectron2's own."""

from mask_former.backbone.stdc import D2STDCnet
from mask_former.backbone.swin import D2SwinTransformer
from mask_former.backbone.timm import TimmBackbone
from mask_former.backbone.vit import Tokens, ViTEncoder
from mask_former.backbone.vit_pyramid import ViTPyramid

__all__ = [
    "D2STDCnet",
    "D2SwinTransformer",
    "TimmBackbone",
    "Tokens",
    "ViTEncoder",
    "ViTPyramid",
]
