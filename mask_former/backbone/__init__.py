"""Backbones beside Detectron2's own."""

from mask_former.backbone.swin import D2SwinTransformer

__all__ = ["D2SwinTransformer"]
