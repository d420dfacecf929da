"""Windows of a map of tokens (Swin Transformer, arXiv:2103.14030, section 3.2).

Shapes: `B` maps, `H W` their tokens, `M` windows of a map, `N` tokens of a window, `D` channels.
A map that windows do not divide is padded below and on the right; a shifted grid of windows wraps
around the borders.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# Added to the attention between tokens that only the wrapping brought into one window.
APART = -100.0


@dataclass(frozen=True)
class Windows:
    """Which token of a map lies where in which window.

    Padding, shift, partition and their reverse each are one copy with these indices.

    Attributes:
        height, width: of the map, in tokens.
        count, area: M and N.
        tokens: the token at each place, (M * N,); 0 where there is only padding.
        places: the place of each token, (H * W,).
        padding: the places without a token, (P,).
        mask: added to attention weights before the softmax, (M, 1, N, N); None without a shift.
    """

    height: int
    width: int
    count: int
    area: int
    tokens: Tensor
    places: Tensor
    padding: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, height: int, width: int, size: int, shift: int, device: torch.device) -> "Windows":
        """The windows of `size` x `size` tokens, moved down and to the right by `shift` tokens."""
        rows, columns = (-(-x // size) * size for x in (height, width))

        def places(ys: range, xs: range) -> Tensor:
            y = (torch.arange(ys.start, ys.stop, device=device)[:, None] - shift) % rows
            x = (torch.arange(xs.start, xs.stop, device=device) - shift) % columns
            window = y // size * (columns // size) + x // size
            return (window * size**2 + y % size * size + x % size).flatten()

        of_tokens = places(range(height), range(width))
        below = places(range(height, rows), range(columns))
        right = places(range(height), range(width, columns))
        tokens = torch.zeros(rows * columns, dtype=torch.long, device=device)
        tokens[of_tokens] = torch.arange(height * width, device=device)
        return cls(
            height=height,
            width=width,
            count=rows * columns // size**2,
            area=size**2,
            tokens=tokens,
            places=of_tokens,
            # ONNX has no concatenation of nothing.
            padding=torch.cat((below, right)) if len(below) or len(right) else below,
            mask=_mask(rows, columns, size, shift, device) if shift else None,
        )

    def split(self, x: Tensor, fill: Tensor | None) -> Tensor:
        """(B, H, W, D) -> (B * M, N, D), with `fill` (D,), or zero, where there is no token."""
        places = _ToPlaces.apply(x.flatten(1, 2), fill, self)
        return places.view(len(x) * self.count, self.area, x.shape[-1])

    def join(self, x: Tensor) -> Tensor:
        """(B * M, N, D) -> (B, H, W, D), the reverse of `split`."""
        places = x.view(len(x) // self.count, self.count * self.area, x.shape[-1])
        return _ToTokens.apply(places, self).unflatten(1, (self.height, self.width))


def _mask(rows: int, columns: int, size: int, shift: int, device: torch.device) -> Tensor:
    """(M, 1, N, N): zero between tokens that were neighbours before the wrapping, else `APART`."""

    def parts(length: int) -> Tensor:
        i = torch.arange(length, device=device)
        # Before the last window all is one part; the last one is cut where the map wraps.
        return ((i >= length - size).long() + (i >= length - shift)).view(-1, size)

    y, x = parts(rows), parts(columns)
    part = (3 * y[:, None, :, None] + x[None, :, None, :]).view(-1, 1, size**2)
    return APART * (part.unsqueeze(-1) != part.unsqueeze(-2)).float()


def _to_places(tokens: Tensor, fill: Tensor | None, windows: Windows) -> Tensor:
    x = tokens.index_select(1, windows.tokens)
    if not len(windows.padding):
        return x
    if fill is None:
        return x.index_fill_(1, windows.padding, 0.0)
    return x.index_copy_(1, windows.padding, fill.to(x.dtype).expand_as(x[:, windows.padding]))


class _ToPlaces(Function):
    """Tokens (B, H * W, D) to places (B, M * N, D).

    Every token has one place, so that gradients are moved, too, instead of summed up.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, fill: Tensor | None, windows: Windows) -> Tensor:
        ctx.windows = windows
        ctx.fill_dtype = None if fill is None else fill.dtype
        return _to_places(tokens, fill, windows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        fill_grad = None
        if ctx.fill_dtype is not None:
            fill_grad = grad[:, ctx.windows.padding].sum((0, 1), dtype=ctx.fill_dtype)
        return grad.index_select(1, ctx.windows.places), fill_grad, None


class _ToTokens(Function):
    """Places (B, M * N, D) to tokens (B, H * W, D); what stands at padding is dropped."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        return places.index_select(1, windows.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _to_places(grad, None, ctx.windows), None
