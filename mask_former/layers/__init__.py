"""The building blocks that pixel decoders and predictors share."""

from mask_former.layers.attention import Attention
from mask_former.layers.linear import Linear, linear
from mask_former.layers.mlp import MLP
from mask_former.layers.position_encoding import sine_position_encoding
from mask_former.layers.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "MLP",
    "Attention",
    "Linear",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "linear",
    "sine_position_encoding",
]
