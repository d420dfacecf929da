"""The encoder of Deformable DETR (arXiv:2010.04159): the pixels of several maps attend to them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mask_former.layers.deformable_attention import MultiScaleDeformableAttention, Sizes
from mask_former.layers.position_encoding import sine_position_encoding
from mask_former.layers.transformer import ResidualLayer, TransformerOptions, flatten_map


class DeformableEncoder(nn.Module):
    """A transformer encoder whose tokens are the pixels of all maps.

    Args:
        dim: channels of the maps.
        num_levels: number of maps.
        num_layers: number of layers.
        num_points: points that each head samples of each map.
        options: hyper-parameters of the layers.
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        num_layers: int,
        num_points: int,
        options: TransformerOptions,
    ) -> None:
        super().__init__()
        layers = [
            DeformableEncoderLayer(dim, num_levels, num_points, options) for _ in range(num_layers)
        ]
        # The published weights name them `encoder.layers`.
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.level_embed = nn.Parameter(torch.randn(num_levels, dim))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Encode maps (B, C, h, w), of any sizes; returns as many, of the same shapes."""
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        pos = torch.cat(
            [
                flatten_map(sine_position_encoding(x)) + level
                for x, level in zip(maps, self.level_embed, strict=True)
            ],
            dim=1,
        )
        reference = torch.cat([_pixel_centers(x) for x in maps])
        tokens = torch.cat([flatten_map(x) for x in maps], dim=1)
        for layer in self.encoder["layers"]:
            tokens = layer(tokens, pos, reference, sizes)
        # Rows of pixels, as the convolutions behind want them.
        tokens = tokens.transpose(1, 2).contiguous()
        parts = tokens.split([math.prod(size) for size in sizes], dim=2)
        return [x.unflatten(2, size) for x, size in zip(parts, sizes, strict=True)]


class DeformableEncoderLayer(ResidualLayer):
    """Deformable self-attention, then a feed-forward network."""

    def __init__(
        self, dim: int, num_levels: int, num_points: int, options: TransformerOptions
    ) -> None:
        super().__init__(dim, options)
        self.self_attn = MultiScaleDeformableAttention(
            dim, options.num_heads, num_levels, num_points
        )
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, pos: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """`x` (B, S, C), `pos` broadcastable to it, `reference` (S, 2); returns (B, S, C)."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + pos, reference, y, sizes))
        return self.residual(x, self.norm2, self.feedforward)


def _pixel_centers(feature: Tensor) -> Tensor:
    """Centers (x, y) of a map's pixels, (h*w, 2); it covers [0, 1] x [0, 1]."""
    height, width = feature.shape[-2:]
    y = (torch.arange(height, device=feature.device) + 0.5) / height
    x = (torch.arange(width, device=feature.device) + 0.5) / width
    return torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1)
