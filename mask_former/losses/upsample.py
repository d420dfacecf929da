"""Bilinear enlarging of masks, and its transpose, for losses that look at every pixel.

A loss does not care in which order it sees the pixels. Where the scale is a whole number s, those
with the same offset (a, b) in their s x s cell are kept together: such a plane is an interpolation
between a mask and its shifted self with one weight: a pass over memory, and so is its transpose.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class WholeUpsampling:
    """By whole factors: P pixels are ordered (a, b, i, j) for pixel (i * s + a, j * s' + b).

    Args:
        size: (h, w), of the masks.
        factors: (s, s').
        like: has the masks' dtype and device.
    """

    def __init__(self, size: tuple[int, int], factors: tuple[int, int], like: Tensor) -> None:
        self.size = size
        self.factors = factors

    def arrange(self, masks: Tensor) -> Tensor:
        """Put the pixels of full-resolution masks (N, H, W) in order, (N, P)."""
        (height, width), (s, t) = self.size, self.factors
        return masks.view(-1, height, s, width, t).permute(0, 2, 4, 1, 3).flatten(1)

    def up(self, masks: Tensor) -> Tensor:
        """Enlarge masks (M, h, w) to (M, P)."""
        (height, width), (s, t) = self.size, self.factors
        padded = F.pad(masks[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        tall = masks.new_empty(len(masks), s, height, width + 2)
        _interpolate(padded, -2, tall.transpose(0, 1))
        full = masks.new_empty(len(masks), s, t, height, width)
        _interpolate(tall, -1, full.movedim(2, 0))
        return full.flatten(1)

    def down(self, gradient: Tensor) -> Tensor:
        """Apply the transpose of `up`: from (M, P) to (M, h, w)."""
        (height, width), (s, t) = self.size, self.factors
        tall = gradient.new_zeros(len(gradient), s, height, width + 2)
        _gather(gradient.view(-1, s, t, height, width).movedim(2, 0), tall, -1)
        full = gradient.new_zeros(len(gradient), height + 2, width + 2)
        _gather(tall.transpose(0, 1), full, -2)
        # The margin repeats the rim.
        for margin, rim in ((0, 1), (-1, -2)):
            full[:, rim] += full[:, margin]
            full[:, :, rim] += full[:, :, margin]
        return full[:, 1:-1, 1:-1]


class AnyUpsampling:
    """To any size, as products with dense matrices: P pixels are in their usual order."""

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int], like: Tensor) -> None:
        self.rows = _interpolation_matrix(size[0], new_size[0], like)
        self.columns = _interpolation_matrix(size[1], new_size[1], like)

    def arrange(self, masks: Tensor) -> Tensor:
        return masks.flatten(1)

    def up(self, masks: Tensor) -> Tensor:
        return (self.rows @ masks @ self.columns.T).flatten(1)

    def down(self, gradient: Tensor) -> Tensor:
        full = gradient.view(len(gradient), len(self.rows), len(self.columns))
        return self.rows.T @ full @ self.columns


def upsampling(
    size: tuple[int, int], new_size: tuple[int, int], like: Tensor
) -> WholeUpsampling | AnyUpsampling:
    """The way from masks of `size` to `new_size` for tensors like `like`."""
    factors = (new_size[0] // size[0], new_size[1] // size[1])
    if (size[0] * factors[0], size[1] * factors[1]) == tuple(new_size):
        return WholeUpsampling(size, factors, like)
    return AnyUpsampling(size, new_size, like)


def _offset(a: int, factor: int) -> tuple[int, float]:
    """Offset `a` of a cell lies between neighbours `first` and `first + 1`, at `weight`."""
    position = (a + 0.5) / factor + 0.5  # of the neighbours 0, 1, 2; the cell's own is 1
    first = int(position)
    return first, position - first


def _interpolate(x: Tensor, dim: int, planes: Tensor) -> None:
    """Fill `planes`, one for each offset, with what lies between the pixels along `dim` of `x`,
    which has a margin of one pixel there."""
    size = x.shape[dim] - 2
    for a, plane in enumerate(planes):
        first, weight = _offset(a, len(planes))
        near, far = (x.narrow(dim, start, size) for start in (first, first + 1))
        torch.lerp(near, far, weight, out=plane)


def _gather(planes: Tensor, x: Tensor, dim: int) -> None:
    """The transpose of `_interpolate`: add what each of `planes` was made of to `x`."""
    size = x.shape[dim] - 2
    for a, plane in enumerate(planes):
        first, weight = _offset(a, len(planes))
        x.narrow(dim, first, size).add_(plane, alpha=1 - weight)
        x.narrow(dim, first + 1, size).add_(plane, alpha=weight)


def _interpolation_matrix(size: int, new_size: int, like: Tensor) -> Tensor:
    """Bilinear interpolation of one dimension as a matrix, (new_size, size)."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(identity, size=new_size, mode="linear")[0].T
