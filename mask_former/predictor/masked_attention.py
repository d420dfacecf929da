"""Mask2Former's predictor (section 3.2): queries attend, map by map, to what their masks cover."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers import (
    Attention,
    Residual,
    ResidualLayer,
    TransformerOptions,
    flatten_map,
    sine_position_encoding,
)
from mask_former.predictor.build import PREDICTOR_REGISTRY
from mask_former.predictor.mask_head import MaskHead
from mask_former.predictor.single_scale import input_projection
from mask_former.structures import PixelFeatures, Prediction, multiply_out


@dataclass(frozen=True)
class Level:
    """A map of the memory, as queries attend to it.

    Attributes:
        memory: its pixels, (B, S, C).
        keys: its pixels with their positions, (B, S, C).
        mask_features: per-pixel embeddings at its size, (B, C', h', w') with S = h' * w', through
            which no gradient passes.
    """

    memory: Tensor
    keys: Tensor
    mask_features: Tensor


@PREDICTOR_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(MaskHead):
    """Learned queries attend to the maps of the memory in turn, each within its own mask.

    The queries are classified and multiplied out before every layer, since each needs the masks
    of the one before; so there is one prediction more than layers.

    Args:
        memory_shape: shapes of the memory, from coarse to fine.
        num_classes: K, without "no object".
        num_queries: Q.
        hidden_dim: channels of the queries.
        mask_dim: channels of the mask embeddings and of the per-pixel embeddings.
        num_layers: L - 1.
        transformer: hyper-parameters of the layers.
        deep_supervision: return all predictions in training, or the last one only.
        enforce_input_proj: project maps even where their channels equal `hidden_dim`.
        cross_attention: makes the sub-layer by which queries attend to a map, of the channels and
            the hyper-parameters; it is called like `CrossAttentionLayer`.

    Raises:
        UserError: there is no query, or no layer; the heads do not divide the channels.
    """

    @configurable
    def __init__(
        self,
        *,
        memory_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_queries: int = 100,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_layers: int = 9,
        transformer: TransformerOptions | None = None,
        deep_supervision: bool = True,
        enforce_input_proj: bool = False,
        cross_attention: Callable[[int, TransformerOptions], nn.Module] | None = None,
    ) -> None:
        super().__init__(hidden_dim=hidden_dim, mask_dim=mask_dim, num_classes=num_classes)
        if num_queries < 1 or num_layers < 1:
            raise UserError(
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {num_queries} and "
                f"MODEL.MASK_FORMER.DEC_LAYERS {num_layers + 1}; there must be at least 1 query, "
                "and DEC_LAYERS must be at least 2, since it counts the prediction before the "
                "first layer"
            )
        self.deep_supervision = deep_supervision
        options = transformer or TransformerOptions(dropout=0.0)
        layers = range(num_layers)
        cross_attention = cross_attention or CrossAttentionLayer
        self.transformer_cross_attention_layers = nn.ModuleList(
            cross_attention(hidden_dim, options) for _ in layers
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, options) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(hidden_dim, options) for _ in layers
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(len(memory_shape), hidden_dim)
        self.input_proj = nn.ModuleList(
            input_projection(shape.channels, hidden_dim, enforce=enforce_input_proj)
            for shape in memory_shape
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.MASK_FORMER
        if keys.ENC_LAYERS:
            raise UserError(
                f"MODEL.MASK_FORMER.ENC_LAYERS is {keys.ENC_LAYERS}, but {cls.__name__} has no "
                "encoder; set it to 0, and the pixel decoder's depth by "
                "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"
            )
        return {
            "memory_shape": memory_shape,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_queries": keys.NUM_OBJECT_QUERIES,
            "hidden_dim": keys.HIDDEN_DIM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "num_layers": keys.DEC_LAYERS - 1,
            "transformer": TransformerOptions(
                num_heads=keys.NHEADS,
                dim_feedforward=keys.DIM_FEEDFORWARD,
                dropout=0.0,  # as published: DROPOUT is the pixel decoder's
                pre_norm=keys.PRE_NORM,
            ),
            "deep_supervision": keys.DEEP_SUPERVISION,
            "enforce_input_proj": keys.ENFORCE_INPUT_PROJ,
        }

    def forward(self, pixels: PixelFeatures) -> list[Prediction]:
        """Return the predictions of every supervised layer, the final one last."""
        mask_features = pixels.mask_features
        levels = [self._level(i, x, mask_features) for i, x in enumerate(pixels.memory)]
        batch = len(mask_features)
        # Copies: PyTorch's FlopCounterMode fails on modules that are given views of parameters.
        x = self.query_feat.weight.repeat(batch, 1, 1)
        query_pos = self.query_embed.weight.repeat(batch, 1, 1)
        predictions = [self.predict(self.decoder_norm(x), mask_features)]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross_attention, self_attention, feedforward) in enumerate(layers):
            level = levels[i % len(levels)]
            x = cross_attention(x, query_pos, level, predictions[-1].mask_embeddings)
            x = self_attention(x, query_pos)
            x = feedforward(x)
            predictions.append(self.predict(self.decoder_norm(x), mask_features))
        return predictions if self.training and self.deep_supervision else predictions[-1:]

    def _level(self, i: int, feature: Tensor, mask_features: Tensor) -> Level:
        feature = self.input_proj[i](feature)
        memory = flatten_map(feature) + self.level_embed.weight[i]
        keys = memory + flatten_map(sine_position_encoding(feature))
        # Resizing and multiplying out commute: the per-pixel embeddings are resized once for each
        # map, instead of the masks of all queries in every layer.
        return Level(memory, keys, _resized(mask_features.detach(), feature.shape[-2:]))


@torch.no_grad()
def attention_mask(mask_embeddings: Tensor, pixel_embeddings: Tensor) -> Tensor:
    """Where queries may attend: where their masks have a probability of at least 0.5.

    A query whose mask is empty may attend everywhere.

    Args:
        mask_embeddings: (B, Q, C).
        pixel_embeddings: (B, C, h, w), at the size of the map to attend to.

    Returns:
        bool (B, 1, Q, h*w), the same for all heads.
    """
    mask = inside_masks(mask_embeddings, pixel_embeddings)
    return (mask | ~mask.any(-1, keepdim=True))[:, None]


@torch.no_grad()
def inside_masks(mask_embeddings: Tensor, pixel_embeddings: Tensor) -> Tensor:
    """Where masks have a probability of at least 0.5, bool (B, Q, h*w), see `attention_mask`."""
    return multiply_out(mask_embeddings, pixel_embeddings).flatten(2) >= 0


class CrossAttentionLayer(Residual):
    """Attention of the queries to a map, within their masks."""

    def __init__(self, dim: int, options: TransformerOptions) -> None:
        super().__init__(options)
        self.multihead_attn = Attention(dim, options.num_heads, dropout=options.dropout)
        self.norm = nn.LayerNorm(dim)
        _reset_parameters(self)

    def forward(
        self, x: Tensor, query_pos: Tensor, level: Level, mask_embeddings: Tensor
    ) -> Tensor:
        """`x` (B, Q, C) -> (B, Q, C).

        Args:
            mask_embeddings: of the queries' last prediction, (B, Q, C').
        """
        mask = attention_mask(mask_embeddings, level.mask_features)
        return self.residual(
            x,
            self.norm,
            lambda y: self.multihead_attn(y + query_pos, level.keys, level.memory, mask),
        )


class SelfAttentionLayer(Residual):
    """Attention of the queries to each other."""

    def __init__(self, dim: int, options: TransformerOptions) -> None:
        super().__init__(options)
        self.self_attn = Attention(dim, options.num_heads, dropout=options.dropout)
        self.norm = nn.LayerNorm(dim)
        _reset_parameters(self)

    def forward(self, x: Tensor, query_pos: Tensor) -> Tensor:
        """`x` (B, Q, C) -> (B, Q, C)."""
        return self.residual(
            x, self.norm, lambda y: self.self_attn(y + query_pos, y + query_pos, y)
        )


class FeedForwardLayer(ResidualLayer):
    """A feed-forward network for each query."""

    def __init__(self, dim: int, options: TransformerOptions) -> None:
        super().__init__(dim, options)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, Q, C) -> (B, Q, C)."""
        return self.residual(x, self.norm, self.feedforward)


def _reset_parameters(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def _resized(feature: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
