"""Sine position encoding of feature maps (DETR, appendix A.4)."""

import math

import torch
from torch import Tensor

from mask_former.errors import UserError


def sine_position_encoding(feature: Tensor, *, temperature: float = 10_000.0) -> Tensor:
    """Encode the positions of a feature map by sines and cosines of their coordinates.

    The coordinates run from 1/h to 1, times 2 pi. The first half of the channels encodes y, the
    second x; in each, sine and cosine of one frequency are neighbours.

    Args:
        feature: (B, C, h, w) with C divisible by 4; only its shape and device are used.
        temperature: ratio of the highest to the lowest frequency.

    Returns:
        float32 (1, C, h, w).

    Raises:
        UserError: C is not divisible by 4.
    """
    channels, height, width = feature.shape[-3:]
    if channels % 4:
        raise UserError(
            f"a sine position encoding needs channels divisible by 4, got {channels}: set "
            "MODEL.MASK_FORMER.HIDDEN_DIM and, where the pixel decoder has an encoder, "
            "MODEL.SEM_SEG_HEAD.CONVS_DIM to such a number."
        )
    frequencies = torch.arange(channels // 4, dtype=torch.float32, device=feature.device)
    scale = temperature ** (frequencies * 4 / channels)

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32, device=feature.device)
        angle = (position / (size + 1e-6) * (2 * math.pi))[:, None] / scale
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)  # (size, C/2)

    y = encode(height)[:, None].expand(-1, width, -1)
    x = encode(width)[None].expand(height, -1, -1)
    return torch.cat((y, x), dim=-1).permute(2, 0, 1)[None]
