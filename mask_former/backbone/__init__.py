"""Backbones beside Detectron2's own."""

from mask_former.backbone.swin import D2SwinTransformer
from mask_former.backbone.timm import TimmBackbone

__all__ = ["D2SwinTransformer", "TimmBackbone"]
