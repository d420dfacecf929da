"""What predictors with a transformer decoder share: queries that become masks."""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers import MLP, Transformer, sine_position_encoding
from mask_former.structures import PixelFeatures


class QueryMasks(nn.Module):
    """Learned queries attend to one feature map; each becomes a mask (paper, section 3.4).

    Args:
        input_shape: shapes of the maps there are.
        in_feature: name of the map that the queries attend to.
        num_queries: Q.
        hidden_dim: channels of the transformer.
        mask_dim: channels of the mask embeddings; those of the per-pixel embeddings.
        num_heads, dim_feedforward, dropout, pre_norm: the transformer's hyper-parameters.
        num_encoder_layers: its encoder layers in front of the decoder; the paper has none here.
        num_decoder_layers: L.
        deep_supervision: decode masks of every decoder layer, or of the last only.
        enforce_input_proj: project the map even where its channels equal `hidden_dim`.

    Raises:
        ValueError: there is no map `in_feature`, no query, or no decoder layer.
    """

    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_feature: str,
        num_queries: int = 100,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        num_encoder_layers: int = 0,
        num_decoder_layers: int = 6,
        deep_supervision: bool = True,
        enforce_input_proj: bool = False,
    ) -> None:
        super().__init__()
        if in_feature not in input_shape:
            raise UserError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {in_feature!r}, but the backbone "
                f"and the pixel decoder give only {sorted(input_shape)}"
            )
        if min(num_queries, num_decoder_layers) < 1:
            raise UserError(
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {num_queries} and "
                f"MODEL.MASK_FORMER.DEC_LAYERS {num_decoder_layers}; both must be at least 1"
            )
        self.in_feature = in_feature
        self.deep_supervision = deep_supervision
        self.transformer = Transformer(
            hidden_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            num_heads=num_heads,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        in_dim = input_shape[in_feature].channels
        if in_dim != hidden_dim or enforce_input_proj:
            self.input_proj = Conv2d(in_dim, hidden_dim, kernel_size=1)
            weight_init.c2_xavier_fill(self.input_proj)
        else:
            self.input_proj = nn.Identity()
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, num_layers=3)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.MASK_FORMER
        return {
            "input_shape": input_shape,
            "in_feature": keys.TRANSFORMER_IN_FEATURE,
            "num_queries": keys.NUM_OBJECT_QUERIES,
            "hidden_dim": keys.HIDDEN_DIM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "num_heads": keys.NHEADS,
            "dim_feedforward": keys.DIM_FEEDFORWARD,
            "dropout": keys.DROPOUT,
            "pre_norm": keys.PRE_NORM,
            "num_encoder_layers": keys.ENC_LAYERS,
            "num_decoder_layers": keys.DEC_LAYERS,
            "deep_supervision": keys.DEEP_SUPERVISION,
            "enforce_input_proj": keys.ENFORCE_INPUT_PROJ,
        }

    def decode(self, pixels: PixelFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Decode segments from every supervised layer, or in inference from the final one alone.

        Returns:
            of these layers, the final one last: the segments' embeddings, (L, B, Q, hidden_dim),
            their mask embeddings, (L, B, Q, C), and mask logits, (L, B, Q, h, w).
        """
        feature = self.input_proj(pixels.maps[self.in_feature])
        layers = self.transformer(feature, self.query_embed.weight, sine_position_encoding(feature))
        # In inference the earlier layers' masks would be computed only to be thrown away.
        if not (self.training and self.deep_supervision):
            layers = layers[-1:]
        # (L, B, Q, C) in the memory of (L, Q, B, C).
        segments = torch.stack(layers).transpose(1, 2)
        embeddings = self.mask_embed(segments)
        # One matrix product an image for all layers, without the copies that einsum would make.
        masks = pixels.masks(embeddings.transpose(0, 1).flatten(1, 2))
        return segments, embeddings, masks.unflatten(1, (len(layers), -1)).transpose(0, 1)
