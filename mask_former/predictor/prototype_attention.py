"""PEM's predictor (arXiv:2402.19422): a query attends to one pixel, its prototype."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers import TransformerOptions, flatten_map
from mask_former.predictor.build import PREDICTOR_REGISTRY
from mask_former.predictor.masked_attention import (
    Level,
    MultiScaleMaskedTransformerDecoder,
    inside_masks,
)


@PREDICTOR_REGISTRY.register()
class PrototypeTransformerDecoder(MultiScaleMaskedTransformerDecoder):
    """Mask2Former's predictor, but for how queries attend to a map: by `PrototypeAttention`.

    Its published name is that of Mask2Former's, too.

    Args:
        norm: normalization of the maps, as in `detectron2.layers.get_norm`.
        predictor: the other arguments, those of Mask2Former's.
    """

    @configurable
    def __init__(self, *, norm: str = "SyncBN", **predictor: Any) -> None:
        super().__init__(cross_attention=partial(PrototypeAttention, norm=norm), **predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, memory_shape), "norm": cfg.MODEL.SEM_SEG_HEAD.NORM}


class PrototypeAttention(nn.Module):
    """Each head of a query picks, within its mask, the pixel that is most like it.

    The features of the pixels that its heads picked, side by side, are the prototype of the query.
    Where masked attention sums over all pixels, this looks at one.

    Args:
        dim: channels of queries and maps.
        options: of the predictor; its number of heads counts here.
        norm: normalization of the maps.

    Raises:
        UserError: the heads do not divide the channels.
    """

    def __init__(self, dim: int, options: TransformerOptions, norm: str = "SyncBN") -> None:
        super().__init__()
        if dim % options.num_heads:
            raise UserError(
                f"{options.num_heads} attention heads do not divide {dim} channels: "
                "MODEL.MASK_FORMER.NHEADS must divide HIDDEN_DIM."
            )
        self.num_heads = options.num_heads
        self.feature_proj = PixelProjection(dim, norm)
        self.query_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.proj = nn.Linear(dim, dim)
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self.final = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, query_pos: Tensor, level: Level, mask_embeddings: Tensor
    ) -> Tensor:
        """`x` (B, Q, C) -> (B, Q, C).

        Args:
            mask_embeddings: of the queries' last prediction, (B, Q, C').
        """
        size = level.mask_features.shape[-2:]
        # Of length 1 over all channels, not over those of each head.
        pixels = F.normalize(self.feature_proj(level.keys, size), dim=-1)
        queries = F.normalize(self.query_proj(x + query_pos), dim=-1)
        mask = prototype_mask(mask_embeddings, level.mask_features)
        prototypes = self.prototypes(queries, pixels, mask)
        # Over the queries, as published, and not over the channels.
        weights = F.normalize(self.proj(prototypes * queries), dim=1)
        return x + self.final(prototypes + self.alpha * weights)

    def prototypes(self, queries: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
        """The features of the most similar pixel, for every head of every query.

        Gradients reach the pixels that are picked, and none the choice.

        Args:
            queries: (B, Q, C).
            pixels: (B, S, C).
            mask: pixels to choose from, bool (B, Q, S).

        Returns:
            (B, Q, C).
        """
        q, k = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (queries, pixels))
        with torch.no_grad():
            similarity = (q @ k.mT).masked_fill(~mask[:, None], -torch.inf)
            # Of nothing but -inf it is the first pixel, as published: see `prototype_mask`.
            best = similarity.argmax(-1, keepdim=True)  # (B, heads, Q, 1)
        picked = k.gather(2, best.expand(-1, -1, -1, k.shape[-1]))
        return picked.transpose(1, 2).flatten(2)


@torch.no_grad()
def prototype_mask(mask_embeddings: Tensor, pixel_embeddings: Tensor) -> Tensor:
    """Which pixels a query may choose from: those where its mask has a probability of at least 0.5.

    As published, empty masks are lifted where all queries of an image have one. A single query
    with an empty mask keeps it, and gets the first pixel of the map.

    Args:
        mask_embeddings: (B, Q, C).
        pixel_embeddings: (B, C, h, w), at the size of the map to attend to.

    Returns:
        bool (B, Q, h*w).
    """
    mask = inside_masks(mask_embeddings, pixel_embeddings)
    return mask | ~mask.any(-1, keepdim=True).any(-2, keepdim=True)


class PixelProjection(nn.Module):
    """A normalization, a 3x3 convolution of each channel by itself, a linear layer."""

    def __init__(self, dim: int, norm: str) -> None:
        super().__init__()
        self.bn = get_norm(norm, dim) or nn.Identity()
        # The published name.
        self.to_query_3x3 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, pixels: Tensor, size: Sequence[int]) -> Tensor:
        """Pixels of a map of `size` (h, w), (B, h*w, C) -> (B, h*w, C)."""
        feature = pixels.transpose(1, 2).unflatten(2, tuple(size))
        return self.out(flatten_map(self.to_query_3x3(self.bn(feature))))
