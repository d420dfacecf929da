"""Multi-head attention ("Attention Is All You Need", section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.errors import UserError


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    The parameters have the names and the layout of `torch.nn.MultiheadAttention`, which the
    published weights use.

    Args:
        dim: channels of queries, keys, values and output.
        num_heads: must divide `dim`.
        dropout: probability with which an attention weight is dropped in training.

    Raises:
        UserError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(
                f"{num_heads} attention heads do not divide {dim} channels: MODEL.MASK_FORMER."
                "NHEADS must divide HIDDEN_DIM and, for the encoder of a pixel decoder, "
                "MODEL.SEM_SEG_HEAD.CONVS_DIM."
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from `query` (B, Q, C) to `key` and `value` (B, S, C).

        Args:
            mask: where a query may attend, bool, broadcastable to (B, heads, Q, S); every query
                needs one place at least. None: everywhere.

        Returns:
            (B, Q, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))
