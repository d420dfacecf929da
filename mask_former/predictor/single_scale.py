"""Queries that attend to one feature map, by DETR's transformer (paper, section 3.4)."""

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers import Transformer, TransformerOptions, sine_position_encoding
from mask_former.predictor.mask_head import MaskHead
from mask_former.structures import PixelFeatures


class SingleScaleQueries(MaskHead):
    """Learned queries that become segment embeddings; see `MaskHead` for what becomes of these.

    Args:
        memory_shape: shapes of the memory, from coarse to fine; the queries attend to the coarsest.
        num_classes: K, without "no object"; None: only masks are predicted.
        num_queries: Q.
        hidden_dim: channels of the transformer.
        mask_dim: channels of the mask embeddings and of the per-pixel embeddings.
        num_encoder_layers: its encoder layers in front of the decoder; the paper has none here.
        num_decoder_layers: L.
        transformer: hyper-parameters of its layers.
        deep_supervision: return the segments of every decoder layer, or of the last one only.
        enforce_input_proj: project the map even where its channels equal `hidden_dim`.

    Raises:
        UserError: there is no query, or no decoder layer.
    """

    def __init__(
        self,
        *,
        memory_shape: Sequence[ShapeSpec],
        num_classes: int | None,
        num_queries: int = 100,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_encoder_layers: int = 0,
        num_decoder_layers: int = 6,
        transformer: TransformerOptions | None = None,
        deep_supervision: bool = True,
        enforce_input_proj: bool = False,
    ) -> None:
        super().__init__(hidden_dim=hidden_dim, mask_dim=mask_dim, num_classes=num_classes)
        if min(num_queries, num_decoder_layers) < 1:
            raise UserError(
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {num_queries} and "
                f"MODEL.MASK_FORMER.DEC_LAYERS {num_decoder_layers}; both must be at least 1"
            )
        self.deep_supervision = deep_supervision
        self.transformer = Transformer(
            hidden_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            options=transformer or TransformerOptions(),
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = input_projection(
            memory_shape[0].channels, hidden_dim, enforce=enforce_input_proj
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.MASK_FORMER
        return {
            "memory_shape": memory_shape,
            "num_queries": keys.NUM_OBJECT_QUERIES,
            "hidden_dim": keys.HIDDEN_DIM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "num_encoder_layers": keys.ENC_LAYERS,
            "num_decoder_layers": keys.DEC_LAYERS,
            "transformer": TransformerOptions(
                num_heads=keys.NHEADS,
                dim_feedforward=keys.DIM_FEEDFORWARD,
                dropout=keys.DROPOUT,
                pre_norm=keys.PRE_NORM,
            ),
            "deep_supervision": keys.DEEP_SUPERVISION,
            "enforce_input_proj": keys.ENFORCE_INPUT_PROJ,
        }

    def segments(self, pixels: PixelFeatures) -> list[Tensor]:
        """Segment embeddings of every supervised layer, L x (B, Q, hidden_dim), the final one last.

        In inference of the final one alone: the others would be computed only to be thrown away.
        """
        feature = self.input_proj(pixels.memory[0])
        layers = self.transformer(feature, self.query_embed.weight, sine_position_encoding(feature))
        return layers if self.training and self.deep_supervision else layers[-1:]


def input_projection(in_dim: int, hidden_dim: int, *, enforce: bool) -> nn.Module:
    """A 1x1 convolution from a map's channels to those of the queries, where they differ."""
    if in_dim == hidden_dim and not enforce:
        return nn.Identity()
    projection = Conv2d(in_dim, hidden_dim, kernel_size=1)
    weight_init.c2_xavier_fill(projection)
    return projection
