"""The pixel decoder of the paper's panoptic models: a transformer encoder on top of the FPN."""

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from mask_former.layers import (
    TransformerEncoder,
    TransformerOptions,
    flatten_map,
    sine_position_encoding,
)
from mask_former.pixel_decoder.build import PIXEL_DECODER_REGISTRY
from mask_former.pixel_decoder.fpn import BasePixelDecoder


@PIXEL_DECODER_REGISTRY.register()
class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """`BasePixelDecoder` whose coarsest map passes through a transformer encoder first.

    Offers the encoded map, (B, conv_dim, H/32, W/32), as the memory "transformer_encoder".

    Args:
        conv_dim: channels of the pyramid and of the encoder.
        num_layers: depth of the encoder.
        transformer: hyper-parameters of its layers.
        pyramid: the other arguments of `BasePixelDecoder`.
    """

    @configurable
    def __init__(
        self,
        *,
        conv_dim: int,
        num_layers: int,
        transformer: TransformerOptions,
        **pyramid: Any,
    ) -> None:
        super().__init__(conv_dim=conv_dim, **pyramid)
        # The published weights name the encoder `transformer.encoder`.
        encoder = TransformerEncoder(conv_dim, num_layers, transformer)
        self.transformer = nn.ModuleDict({"encoder": encoder})

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.MASK_FORMER
        return {
            **super().from_config(cfg, input_shape),
            "num_layers": cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
            "transformer": TransformerOptions(
                num_heads=keys.NHEADS,
                dim_feedforward=keys.DIM_FEEDFORWARD,
                dropout=keys.DROPOUT,
                pre_norm=keys.PRE_NORM,
            ),
        }

    def _add_coarsest(self, in_dim: int, conv_dim: int) -> None:
        self.input_proj = Conv2d(in_dim, conv_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.input_proj)
        super()._add_coarsest(conv_dim, conv_dim)

    def _offered_by_coarsest(self, shape: ShapeSpec) -> dict[str, ShapeSpec]:
        return {"transformer_encoder": shape}

    def _coarsest(self, feature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.input_proj(feature)
        encoded = self.transformer["encoder"](
            flatten_map(x), flatten_map(sine_position_encoding(x))
        )
        encoded = encoded.transpose(1, 2).unflatten(2, feature.shape[-2:])
        top, _ = super()._coarsest(encoded)
        return top, {"transformer_encoder": encoded}
