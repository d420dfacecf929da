"""Pixel decoders: from the backbone's feature maps to per-pixel embeddings."""

from mask_former.pixel_decoder.build import PIXEL_DECODER_REGISTRY, build_pixel_decoder
from mask_former.pixel_decoder.deformable import MSDeformAttnPixelDecoder
from mask_former.pixel_decoder.deformable_conv import PEM_Pixel_Decoder
from mask_former.pixel_decoder.fpn import BasePixelDecoder
from mask_former.pixel_decoder.transformer_fpn import TransformerEncoderPixelDecoder

__all__ = [
    "PIXEL_DECODER_REGISTRY",
    "BasePixelDecoder",
    "MSDeformAttnPixelDecoder",
    "PEM_Pixel_Decoder",
    "TransformerEncoderPixelDecoder",
    "build_pixel_decoder",
]
