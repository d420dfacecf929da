"""The pixel decoder of the paper's panoptic models: a transformer encoder on top of the FPN."""

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from mask_former.layers import TransformerEncoder, sine_position_encoding
from mask_former.layers.transformer import flatten_map
from mask_former.pixel_decoder.build import PIXEL_DECODER_REGISTRY
from mask_former.pixel_decoder.fpn import BasePixelDecoder


@PIXEL_DECODER_REGISTRY.register()
class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """`BasePixelDecoder` whose coarsest map passes through a transformer encoder first.

    Adds the map "transformer_encoder", (B, conv_dim, H/32, W/32).

    Args:
        num_layers: depth of the encoder.
        num_heads, dim_feedforward, dropout, pre_norm: its hyper-parameters.
        others: see `BasePixelDecoder`.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: list[str],
        conv_dim: int,
        mask_dim: int,
        norm: str = "GN",
        num_layers: int,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ) -> None:
        super().__init__(
            input_shape=input_shape,
            in_features=in_features,
            conv_dim=conv_dim,
            mask_dim=mask_dim,
            norm=norm,
        )
        encoder = TransformerEncoder(
            conv_dim,
            num_layers,
            num_heads=num_heads,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        # The published weights name the encoder `transformer.encoder`.
        self.transformer = nn.ModuleDict({"encoder": encoder})
        coarsest = input_shape[self.in_features[-1]]
        self.maps_shape["transformer_encoder"] = ShapeSpec(
            channels=conv_dim, stride=coarsest.stride
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "num_layers": cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
            "num_heads": cfg.MODEL.MASK_FORMER.NHEADS,
            "dim_feedforward": cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "pre_norm": cfg.MODEL.MASK_FORMER.PRE_NORM,
        }

    def _add_coarsest(self, in_dim: int, conv_dim: int) -> None:
        self.input_proj = Conv2d(in_dim, conv_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.input_proj)
        super()._add_coarsest(conv_dim, conv_dim)

    def _coarsest(self, feature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.input_proj(feature)
        encoded = self.transformer["encoder"](
            flatten_map(x), flatten_map(sine_position_encoding(x))
        )
        encoded = encoded.permute(1, 2, 0).unflatten(2, feature.shape[-2:])
        top, _ = super()._coarsest(encoded)
        return top, {"transformer_encoder": encoded}
