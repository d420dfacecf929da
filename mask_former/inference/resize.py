"""Bilinear scaling in several steps as one, some rows of the result at a time.

Predicted masks are scaled to the batch, lose its padding, and are scaled to the size of the result.
Each step is linear and treats rows and columns apart. So all of them together are a matrix along
each axis, in which every output has a few neighbouring inputs; no image in between is made, and any
rows of the result can be had alone, which is what keeps them in a processor's cache.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

# Bytes of a tile, and columns that are made of their inputs at once. On a CPU a tile stays in the
# cache; on a GPU few large tiles keep it busy.
_TILE_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
_BAND = {"cpu": 64, "cuda": 512}
# The rows of two tiles overlap at their inputs.
_LEAST_ROWS = 8


class Sizes(NamedTuple):
    """The sizes (height, width) that the masks of an image go through.

    Attributes:
        padded: of the batch that the network saw.
        image: of the image in it, without padding.
        output: of the result.
    """

    padded: Size
    image: Size
    output: Size

    @property
    def steps(self) -> list["Step"]:
        return [Step(self.padded, self.image), Step(self.output, self.output)]


class Step(NamedTuple):
    """Scale to the size `scaled`, and keep the upper left part of the size `kept`."""

    scaled: Size
    kept: Size


class Scaling:
    """The steps of scaling an image of a given size as one.

    Equal to `torch.nn.functional.interpolate`, bilinear, for each of the steps, but for the order
    in which float32 sums are rounded.

    Args:
        size: of the image that is scaled.
        steps: one after the other; with none the image stays as it is.
        device: of the images.
    """

    def __init__(self, size: Size, steps: Sequence[Step], device: torch.device) -> None:
        self.size = steps[-1].kept if steps else size
        self._device = device
        self._rows, self._columns = (
            _Axis(size[i], [(step.scaled[i], step.kept[i]) for step in steps], device)
            for i in range(2)
        )

    def inputs(self, rows: slice) -> slice:
        """The rows of the image that given rows of the result are made of."""
        return self._rows.inputs(rows)

    def __call__(self, image: Tensor, rows: slice) -> Tensor:
        """Make some rows of the result.

        Args:
            image: float32 (h, C, w), its rows `inputs(rows)` only.
            rows: of the result.

        Returns:
            (len(rows), C, W), which may share memory with `image`.
        """
        return self._rows.scale_first(self._columns.scale_last(image), rows)

    def tiles(self, channels: int) -> Iterator[slice]:
        """All rows of the result, in slices that are small for so many channels."""
        height, width = self.size
        step = max(tile_rows(channels * width, self._device), _LEAST_ROWS)
        for start in range(0, height, step):
            yield slice(start, min(start + step, height))


def tile_rows(values: int, device: torch.device) -> int:
    """How many rows, of so many float32 values each, to treat at once."""
    return max(1, _TILE_BYTES.get(device.type, _TILE_BYTES["cuda"]) // (4 * max(values, 1)))


def cut_rows(masks: Tensor, rows: slice) -> Tensor:
    """A copy of some rows of (Q, h, w), float32 (len(rows), Q, w)."""
    rows_first = masks[:, rows].transpose(0, 1)
    return rows_first.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def mask_tiles(masks: Tensor, sizes: Sizes | None) -> Iterator[tuple[slice, Tensor]]:
    """Scale masks, (Q, h, w): all rows of the result in turn, and the masks there.

    Args:
        sizes: that they go through; None: they stay as they are.

    Yields:
        a slice of the rows, and new float32 (len(rows), Q, W).
    """
    scaling = Scaling(masks.shape[-2:], sizes.steps if sizes else [], masks.device)
    for rows in scaling.tiles(len(masks)):
        yield rows, scaling(cut_rows(masks, scaling.inputs(rows)), rows)


def scale_masks(masks: Tensor, sizes: Sizes) -> Tensor:
    """Scale masks, (Q, h, w), to float32 (Q, *sizes.output)."""
    result = masks.new_empty(len(masks), *sizes.output, dtype=torch.float32)
    with torch.no_grad(), torch.autocast(masks.device.type, enabled=False):
        for rows, tile in mask_tiles(masks, sizes):
            result[:, rows] = tile.transpose(0, 1)
    return result


class _Axis:
    """One axis of a scaling; see `Scaling`, whose steps are here numbers of pixels."""

    def __init__(self, size: int, steps: Sequence[Sequence[int]], device: torch.device) -> None:
        # (1, inputs, outputs). What interpolation makes of the unit vectors are its weights,
        # rounded as PyTorch rounds them. None: nothing is scaled.
        weights: Tensor | None = None
        pixels = size
        for scaled, kept in steps:
            if scaled != pixels or kept != pixels:
                if weights is None:
                    weights = torch.eye(size, dtype=torch.float32, device="cpu")[None]
                weights = F.interpolate(weights, size=scaled, mode="linear")[..., :kept]
            pixels = kept
        self._weights: Tensor | None = None
        if weights is None:
            return
        weights = weights[0].T.contiguous()
        used = weights.numpy() != 0
        self._first = used.argmax(1).tolist()
        self._stop = (size - used[:, ::-1].argmax(1)).tolist()
        self._weights = weights.to(device)
        self._band = _BAND.get(device.type, _BAND["cuda"])

    def inputs(self, outputs: slice) -> slice:
        if self._weights is None:
            return outputs
        return slice(self._first[outputs.start], self._stop[outputs.stop - 1])

    def scale_first(self, x: Tensor, outputs: slice) -> Tensor:
        """Make some outputs along the first axis of (h, C, W), their inputs only."""
        if self._weights is None:
            return x
        weights = self._weights[outputs, self.inputs(outputs)]
        return (weights @ x.flatten(1)).view(len(weights), *x.shape[1:])

    def scale_last(self, x: Tensor) -> Tensor:
        """Make all outputs along the last axis of (h, C, w)."""
        if self._weights is None:
            return x
        size = len(self._weights)
        result = x.new_empty(*x.shape[:2], size)
        rows, result_rows = x.reshape(-1, x.shape[2]), result.view(-1, size)
        for start in range(0, size, self._band):
            outputs = slice(start, min(start + self._band, size))
            inputs = self.inputs(outputs)
            weights = self._weights[outputs, inputs]
            torch.mm(rows[:, inputs], weights.T, out=result_rows[:, outputs])
        return result
