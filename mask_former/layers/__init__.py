"""The building blocks that pixel decoders and predictors share."""

from mask_former.layers.attention import Attention
from mask_former.layers.deformable_attention import MultiScaleDeformableAttention
from mask_former.layers.deformable_conv import DeformableConv2d
from mask_former.layers.deformable_encoder import DeformableEncoder
from mask_former.layers.mlp import MLP
from mask_former.layers.position_encoding import sine_position_encoding
from mask_former.layers.transformer import (
    Residual,
    ResidualLayer,
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
    TransformerOptions,
    flatten_map,
)

__all__ = [
    "MLP",
    "Attention",
    "DeformableConv2d",
    "DeformableEncoder",
    "MultiScaleDeformableAttention",
    "Residual",
    "ResidualLayer",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerOptions",
    "flatten_map",
    "sine_position_encoding",
]
