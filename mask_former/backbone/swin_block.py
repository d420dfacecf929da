"""The blocks of a Swin Transformer (arXiv:2103.14030, figure 3 and equation 4).

Maps of tokens are (B, H, W, C); the rest of the shape legend is in `windows.py`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.backbone.checkpointing import linear_of
from mask_former.backbone.windows import Windows
from mask_former.structures import to_device


class Block(nn.Module):
    """Attention within windows, then a feed-forward network, each a residual branch (figure 3)."""

    def __init__(
        self,
        channels: int,
        *,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        **options: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, **options)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, int(channels * mlp_ratio), drop)
        self.drop = nn.Dropout(drop)
        self.drop_path = drop_path

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> the same."""
        x = self.residual(x, lambda y: self.attn(y, self.norm1, windows))
        return self.residual(x, lambda y: self.mlp(y, self.norm2))

    def residual(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """`x + branch(x)`, in training without the branch for images drawn at random, and with
        more of it for the others (stochastic depth, arXiv:1603.09382)."""
        if not self.training or self.drop_path == 0:
            return x + self.drop(branch(x))
        keep = 1 - self.drop_path
        if torch.compiler.is_compiling():
            # One program for all draws: shapes do not depend on them.
            kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(keep)
            return torch.addcmul(x, self.drop(branch(x)), kept / keep)
        # Drawn on the host, which then knows the shapes without waiting for the device. When no
        # image is left, the branch runs on none: its weights have gradients all the same.
        kept = to_device((torch.rand(len(x)) < keep).nonzero().squeeze(1), x.device)
        if len(kept) == len(x):
            return x + self.drop(branch(x)) / keep
        added = self.drop(branch(x.index_select(0, kept)))
        return x.index_add(0, kept, added.to(x.dtype), alpha=1 / keep)


def relative_position_index(window_size: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, int64 (N, N)."""
    span = 2 * window_size - 1
    i = torch.arange(window_size)
    y, x = i.repeat_interleave(window_size), i.repeat(window_size)
    return span * (y[:, None] - y) + (x[:, None] - x) + span**2 // 2


class WindowAttention(nn.Module):
    """Multi-head attention of the tokens of a window, with relative positions (equation 4)."""

    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        window_size: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (channels // num_heads) ** -0.5
        self.attn_drop = nn.Dropout(attn_drop)
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        span = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window_size))

    def forward(self, x: Tensor, norm: nn.Module, windows: Windows) -> Tensor:
        """Of `norm(x)`; (B, H, W, C) -> the same."""
        # Padding is a token of zeros, whose queries, keys and values are the bias.
        qkv = windows.split(linear_of(norm, x, self.qkv), self.qkv.bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        scores = (self.scale * q) @ k.transpose(-2, -1)
        scores = scores.unflatten(0, (len(x), windows.count))
        bias = self.relative_position_bias()
        if windows.mask is not None:
            bias = bias + windows.mask
        weights = self.attn_drop((scores + bias).softmax(-1)).flatten(0, 1)
        return self.proj(windows.join((weights @ v).transpose(1, 2).flatten(2)))

    def relative_position_bias(self) -> Tensor:
        """(heads, N, N)."""
        table = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return table.t().reshape(-1, *self.relative_position_index.shape)


class FeedForward(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Of `norm(x)`; (..., C) -> the same."""
        hidden = linear_of(norm, x, self.fc1)
        return linear_of(lambda y: self.drop(F.gelu(y)), hidden, self.fc2)
