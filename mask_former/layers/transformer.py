"""Transformer encoder and decoder as in DETR (its figure 10): positions are added in every layer.

Every sub-layer `f` is a residual branch. With post-norm it is `norm(x + f(x))`, with pre-norm
`x + f(norm(x))`; that is the only difference, and it is written once, in `_Layer`.

Sequences come first, (S, B, C): in memory, too, which decides how linear layers round.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.layers.attention import Attention
from mask_former.layers.linear import Linear


class _Layer(nn.Module):
    """A feed-forward network and the residual connection that all sub-layers share."""

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.dropout = nn.Dropout(dropout)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def residual(self, x: Tensor, norm: nn.LayerNorm, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))

    def feedforward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then a feed-forward network."""

    def __init__(
        self, dim: int, num_heads: int, dim_feedforward: int, *, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, pre_norm)
        self.self_attn = Attention(dim, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """`x` (S, B, C), `pos` broadcastable to it; returns (S, B, C)."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + pos, y + pos, y))
        return self.residual(x, self.norm2, self.feedforward)


class TransformerDecoderLayer(_Layer):
    """Self-attention of the queries, attention to the memory, then a feed-forward network."""

    def __init__(
        self, dim: int, num_heads: int, dim_feedforward: int, *, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, pre_norm)
        self.self_attn = Attention(dim, num_heads, dropout=dropout)
        self.multihead_attn = Attention(dim, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, query_pos: Tensor, memory: Tensor, keys: Tensor) -> Tensor:
        """`x` (Q, B, C), `memory` and `keys` (memory with positions) (S, B, C) -> (Q, B, C)."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + query_pos, y + query_pos, y))
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn(y + query_pos, keys, memory))
        return self.residual(x, self.norm3, self.feedforward)


class _Stack(nn.Module):
    """Layers of one kind, and the norm after them."""

    layer_type: type[_Layer]

    def __init__(
        self,
        dim: int,
        num_layers: int,
        *,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            self.layer_type(dim, num_heads, dim_feedforward, dropout=dropout, pre_norm=pre_norm)
            for _ in range(num_layers)
        )
        self.norm = self.make_norm(dim, pre_norm)

    def make_norm(self, dim: int, pre_norm: bool) -> nn.Module:
        return nn.LayerNorm(dim)


class TransformerEncoder(_Stack):
    """A stack of encoder layers; with pre-norm it ends in a norm of its own."""

    layer_type = TransformerEncoderLayer

    def make_norm(self, dim: int, pre_norm: bool) -> nn.Module:
        return nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """`x` (S, B, C), `pos` broadcastable to it; returns (S, B, C)."""
        for layer in self.layers:
            x = layer(x, pos)
        return self.norm(x)


class TransformerDecoder(_Stack):
    """A stack of decoder layers; every layer's output passes through one shared norm."""

    layer_type = TransformerDecoderLayer

    def forward(self, query_pos: Tensor, memory: Tensor, pos: Tensor) -> list[Tensor]:
        """Decode the queries, which start as zeros.

        Args:
            query_pos: learned query embeddings, (Q, C).
            memory: (S, B, C).
            pos: positions of the memory, broadcastable to it.

        Returns:
            the segment embeddings after each layer, L x (Q, B, C).
        """
        keys = memory + pos
        # Copies: PyTorch's FlopCounterMode fails on modules that are given views of parameters.
        query_pos = query_pos[:, None].repeat(1, memory.shape[1], 1)
        x = memory.new_zeros(query_pos.shape)
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, memory, keys)
            outputs.append(self.norm(x))
        return outputs


class Transformer(nn.Module):
    """DETR's transformer: an encoder of the feature map (may have no layers), then a decoder."""

    def __init__(
        self,
        dim: int,
        *,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        options = {
            "num_heads": num_heads,
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "pre_norm": pre_norm,
        }
        self.encoder = TransformerEncoder(dim, num_encoder_layers, **options)
        self.decoder = TransformerDecoder(dim, num_decoder_layers, **options)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, feature: Tensor, query_pos: Tensor, pos: Tensor) -> list[Tensor]:
        """Decode queries from a feature map.

        Args:
            feature: (B, C, h, w).
            query_pos: learned query embeddings, (Q, C).
            pos: position encoding of the map, (1, C, h, w).

        Returns:
            the segment embeddings after each decoder layer, L x (Q, B, C).
        """
        pos = flatten_map(pos)
        return self.decoder(query_pos, self.encoder(flatten_map(feature), pos), pos)


def flatten_map(feature: Tensor) -> Tensor:
    """(B, C, h, w) -> (h*w, B, C)."""
    return feature.flatten(2).permute(2, 0, 1)
