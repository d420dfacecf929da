"""Transformer encoder and decoder as in DETR (its figure 10): positions are added in every layer.

Every sub-layer `f` is a residual branch. With post-norm it is `norm(x + f(x))`, with pre-norm
`x + f(norm(x))`; that is the only difference, and it is written once, in `Residual`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.layers.attention import Attention


@dataclass(frozen=True)
class TransformerOptions:
    """Hyper-parameters that all layers of a transformer share.

    Attributes:
        num_heads: attention heads; must divide the channels.
        dim_feedforward: hidden channels of the feed-forward networks.
        dropout: probability, of attention weights and at the end of each residual branch.
        pre_norm: normalize the input of a residual branch instead of the sum.
        activation: of the feed-forward networks.
    """

    num_heads: int = 8
    dim_feedforward: int = 2048
    dropout: float = 0.1
    pre_norm: bool = False
    activation: Callable[[Tensor], Tensor] = F.relu


class Residual(nn.Module):
    """The residual connection that all sub-layers share."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.pre_norm = options.pre_norm
        self.dropout = nn.Dropout(options.dropout)

    def residual(self, x: Tensor, norm: nn.LayerNorm, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))


class ResidualLayer(Residual):
    """A feed-forward network, and the residual connection."""

    def __init__(self, dim: int, options: TransformerOptions) -> None:
        super().__init__(options)
        self.activation = options.activation
        self.linear1 = nn.Linear(dim, options.dim_feedforward)
        self.linear2 = nn.Linear(options.dim_feedforward, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def feedforward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(ResidualLayer):
    """Self-attention, then a feed-forward network."""

    def __init__(self, dim: int, options: TransformerOptions) -> None:
        super().__init__(dim, options)
        self.self_attn = Attention(dim, options.num_heads, dropout=options.dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, pos: Tensor | float = 0.0) -> Tensor:
        """`x` (B, S, C), `pos` broadcastable to it; returns (B, S, C)."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + pos, y + pos, y))
        return self.residual(x, self.norm2, self.feedforward)


class TransformerDecoderLayer(ResidualLayer):
    """Self-attention of the queries, attention to the memory, then a feed-forward network."""

    def __init__(self, dim: int, options: TransformerOptions) -> None:
        super().__init__(dim, options)
        self.self_attn = Attention(dim, options.num_heads, dropout=options.dropout)
        self.multihead_attn = Attention(dim, options.num_heads, dropout=options.dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, query_pos: Tensor, memory: Tensor, keys: Tensor) -> Tensor:
        """`x` (B, Q, C), `memory` and `keys` (memory with positions) (B, S, C) -> (B, Q, C)."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y + query_pos, y + query_pos, y))
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn(y + query_pos, keys, memory))
        return self.residual(x, self.norm3, self.feedforward)


class TransformerEncoder(nn.Module):
    """A stack of encoder layers; with pre-norm it ends in a norm of its own."""

    def __init__(self, dim: int, num_layers: int, options: TransformerOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim, options) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if options.pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor | float = 0.0) -> Tensor:
        """`x` (B, S, C), `pos` broadcastable to it; returns (B, S, C)."""
        for layer in self.layers:
            x = layer(x, pos)
        return self.norm(x)


class TransformerDecoder(nn.Module):
    """A stack of decoder layers; every layer's output passes through one shared norm."""

    def __init__(self, dim: int, num_layers: int, options: TransformerOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(dim, options) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, query_pos: Tensor, memory: Tensor, pos: Tensor) -> list[Tensor]:
        """Decode the queries, which start as zeros.

        Args:
            query_pos: learned query embeddings, (Q, C).
            memory: (B, S, C).
            pos: positions of the memory, broadcastable to it.

        Returns:
            the segment embeddings after each layer, L x (B, Q, C).
        """
        keys = memory + pos
        # Copies: PyTorch's FlopCounterMode fails on modules that are given views of parameters.
        query_pos = query_pos.repeat(len(memory), 1, 1)
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
        options: TransformerOptions,
    ) -> None:
        super().__init__()
        self.encoder = TransformerEncoder(dim, num_encoder_layers, options)
        self.decoder = TransformerDecoder(dim, num_decoder_layers, options)
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
            the segment embeddings after each decoder layer, L x (B, Q, C).
        """
        pos = flatten_map(pos)
        return self.decoder(query_pos, self.encoder(flatten_map(feature), pos), pos)


def flatten_map(feature: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h*w, C)."""
    return feature.flatten(2).transpose(1, 2)
