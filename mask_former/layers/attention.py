"""Multi-head attention ("Attention Is All You Need", section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers.linear import Linear, linear
from mask_former.layers.rounding import keeps_published_rounding


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    The parameters have the names and the layout of `torch.nn.MultiheadAttention`, which the
    published weights use.

    Args:
        dim: channels of queries, keys, values and output.
        num_heads: must divide `dim`.
        dropout: probability with which an attention weight is dropped in training.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    published_rounding = True

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"{num_heads} attention heads do not divide {dim} channels")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from `query` (M, B, C) to `key` and `value` (S, B, C); return (M, B, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            linear(x, weight, bias, published_rounding=self.published_rounding)
            .unflatten(-1, (self.num_heads, -1))
            .permute(1, 2, 0, 3)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        # In bfloat16 on CPUs the one operation takes longer: its gradient several times as long.
        slow = q.device.type == "cpu" and q.dtype == torch.bfloat16
        if slow or keeps_published_rounding(self, q):
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
            x = F.dropout(weights, dropout) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out_proj(x.permute(2, 0, 1, 3).flatten(2))
