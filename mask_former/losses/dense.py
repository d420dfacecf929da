"""Masks and segments compared at every pixel, as MaskFormer does."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mask_former.structures import (
    Matching,
    Prediction,
    Target,
    at_least_float32,
    with_shared_features,
)

# Logits, targets and the pixels that count, and losses of them; see `mask_former.losses.mask`.
Sample = tuple[Tensor, Tensor, Tensor | None]
PairedLosses = Callable[[Tensor, Tensor, Tensor | None], list[Tensor]]  # to k x (M,)
PairwiseLosses = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # to (K, Q, N)

# Pixels that are worked on at a time: enough to keep the device busy (a GPU waits for the host to
# start the work: on an H100 480 masks of 512x512 take 54 ms in pieces of 2^23 pixels, 29 of 2^24
# and 16 of 2^25, with 0.4, 0.8 and 1.5 GiB), few enough for little memory. On a CPU (with AVX-512,
# and with AVX2 alone) pieces of 2^20 pixels take 0.8 of the time of 2^18.
_CHUNK_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 24}
# Of the pairwise form: a product with all segments, which are converted for every chunk.
_PAIRWISE_CHUNK_PIXELS = {"cpu": 1 << 21, "cuda": 1 << 24}


class AllPixels:
    """All pixels of the padded images.

    The matching compares at the resolution of the masks, with the segments sampled by nearest
    neighbour; the losses at the images', with the masks upsampled bilinearly.
    """

    def pairwise(
        self,
        losses: PairwiseLosses,
        predictions: Sequence[Prediction],
        image: int,
        target: Target,
    ) -> Tensor:
        """Compare every mask of an image with every segment.

        Args:
            losses: the pairwise form of K losses.
            predictions: of L layers.
            image: its index in the batch.
            target: its N segments.

        Returns:
            float32, or float64 as the masks are, (K, L, Q, N).
        """
        size = predictions[0].mask_features.shape[-2:]

        def shrink(regions: Tensor) -> Tensor:
            return F.interpolate(regions.view(torch.uint8)[:, None], size=size).flatten(1)

        segments = shrink(target.masks)
        valid = None if target.valid is None else shrink(target.valid[None])[0]

        def sample(maps: Tensor) -> Tensor:
            return maps.flatten(1)

        return compare_in_chunks(losses, predictions, image, sample, segments, valid)

    def paired(
        self,
        losses: Sequence[PairedLosses],
        masks: Tensor,
        targets: Sequence[Target],
        matching: Matching,
    ) -> Tensor:
        """Compare each matched mask with its segment.

        Args:
            losses: the paired forms of K losses, one function or several.
            masks: logits, float32 or float64 (M, h, w), in the order of `matching`.
            targets: of the B images.

        Returns:
            (K, M).
        """
        upsampling = Upsampling(masks.shape[-2:], targets[0].masks.shape[-2:])
        segments = upsampling.flatten(torch.cat([target.masks for target in targets]))
        valid = None
        if targets[0].valid is not None:
            valid = upsampling.flatten(torch.stack([target.valid for target in targets]))

        def sample(masks: Tensor, segment: Tensor, image: Tensor) -> Sample:
            logits = upsampling.upsample(masks)
            return (
                logits,
                segments.index_select(0, segment),
                None if valid is None else valid.index_select(0, image),
            )

        inputs = (masks, matching.segment, matching.image)
        return in_chunks(losses, sample, *inputs, pixels=segments.shape[1])


ALL_PIXELS = AllPixels()


def compare_in_chunks(
    losses: PairwiseLosses,
    predictions: Sequence[Prediction],
    image: int,
    sample: Callable[[Tensor], Tensor],
    segments: Tensor,
    valid: Tensor | None,
) -> Tensor:
    """Compare every mask of an image with every segment, at all pixels or at points.

    Args:
        losses: the pairwise form of K losses.
        predictions: of L layers.
        image: its index in the batch.
        sample: the pixels or points of maps, (C, h, w) to (C, P). Masks are known there alone: to
            sample and to multiply out commute.
        segments: (N, P).
        valid: the pixels that count, bool (P,); None: all.

    Returns:
        (K, L, Q, N).
    """
    rows = chunk_rows(segments, segments.shape[1], _PAIRWISE_CHUNK_PIXELS)
    found = []
    for features, layers in with_shared_features(predictions):
        maps = sample(features[image])
        if layers[0].mask_embeddings is None:
            products = [maps] * len(layers)
        else:
            embeddings = torch.cat([x.mask_embeddings[image] for x in layers])
            if maps.dtype != features.dtype:  # it samples in float32
                embeddings = embeddings.to(maps)
            # Several layers together: on a CPU, the product of 512 masks of 128x128 pixels takes
            # 0.6 of the time of those of 100.
            products = (part @ maps for part in embeddings.split(4 * rows))
        for masks in products:
            found += [losses(at_least_float32(x), segments, valid) for x in masks.split(rows)]
    return torch.cat(found, 1).unflatten(1, (len(predictions), -1))


def in_chunks(
    losses: Sequence[PairedLosses], sample: Callable[..., Sample], *inputs: Tensor, pixels: int
) -> Tensor:
    """The losses of masks that would take too much memory at once.

    Args:
        losses: the paired forms of K losses, one function or several.
        sample: makes logits, targets and valid pixels, (m, P) each, of m rows of the inputs.
        inputs: have M rows; the first are the masks, (M, h, w).
        pixels: P.

    Returns:
        (K, M).
    """
    masks, *others = inputs
    rows = chunk_rows(masks, pixels)
    masks = masks if torch.is_grad_enabled() else masks.detach()
    return _InChunks.apply(losses, sample, rows, masks, *others)


def chunk_rows(masks: Tensor, pixels: int, chunk_pixels: Mapping[str, int] = _CHUNK_PIXELS) -> int:
    """How many masks of so many pixels, or points, are worked on at a time."""
    return max(1, chunk_pixels.get(masks.device.type, 1 << 23) // pixels)


class _InChunks(torch.autograd.Function):
    """As the masks don't know of each other, their gradients are known up to a factor in the
    forward pass: they are computed there, by autograd, before the next chunk needs the memory."""

    @staticmethod
    def forward(ctx, losses, sample, rows, masks, *others):
        learns = ctx.needs_input_grad[3]
        values, gradients = [], []
        for part, *rest in zip(*(x.split(rows) for x in (masks, *others)), strict=True):
            with torch.set_grad_enabled(learns):
                part = part.detach().requires_grad_(learns)
                logits, *targets = sample(part, *rest)
                leaf = logits.detach().requires_grad_(learns)
                for function in losses:
                    found = function(leaf, *targets)
                    values += [value.detach() for value in found]
                    for i, value in enumerate(found if learns else (), start=1):
                        keep = i < len(found)
                        (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=keep)
                        gradients += torch.autograd.grad(logits, part, gradient, retain_graph=True)
        num_losses = len(values) // len(masks.split(rows))
        if learns:
            gradients = [torch.cat(gradients[k::num_losses]) for k in range(num_losses)]
            ctx.save_for_backward(*gradients)
        return torch.stack([torch.cat(values[k::num_losses]) for k in range(num_losses)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_values):
        weighted = zip(grad_values[:, :, None, None], ctx.saved_tensors, strict=True)
        grad_masks = sum(weight * gradient for weight, gradient in weighted)
        return None, None, None, grad_masks, *[None] * (len(ctx.needs_input_grad) - 4)


class Upsampling:
    """Bilinear upsampling of masks, into pixels in any order: a loss doesn't look at it.

    By a whole factor s, each mask becomes s*s maps of its own size, one for each place in a cell of
    s x s pixels, as in pixel shuffle ("Real-Time Single Image and Video Super-Resolution", section
    3.2). Such a map lies between a mask and its shifted self, with a gradient several times as fast
    as those of `F.interpolate` and of a convolution on CPUs.

    Args:
        size: (h, w), of the masks.
        new_size: (H, W).
    """

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int]) -> None:
        self.new_size = new_size
        self.factor = new_size[0] // size[0]
        self.whole = tuple(self.factor * side for side in size) == tuple(new_size)

    def upsample(self, masks: Tensor) -> Tensor:
        """(M, h, w) to (M, P)."""
        if self.whole:
            return _ToCells.apply(masks, self.factor)
        return F.interpolate(masks[:, None], size=self.new_size, mode="bilinear").flatten(1)

    def flatten(self, regions: Tensor) -> Tensor:
        """The pixels of bool (N, H, W) in the order of `upsample`, as bytes (N, P): booleans are
        slow to convert to floating point."""
        if self.whole:
            regions = F.pixel_unshuffle(regions[:, None], self.factor)
        return regions.flatten(1).view(torch.uint8)


class _ToCells(torch.autograd.Function):
    """Masks (M, h, w), upsampled by s, to (M, s * s * h * w)."""

    @staticmethod
    def forward(ctx, masks, factor):
        ctx.shape, ctx.factor = masks.shape, factor
        count, height, width = masks.shape
        padded = F.pad(masks[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        rows = masks.new_empty(count, factor, height, width + 2)
        cells = masks.new_empty(count, factor, factor, height, width)
        for x, dim, maps in ((padded, -2, rows.movedim(1, 0)), (rows, -1, cells.movedim(2, 0))):
            for (first, weight), y in zip(_neighbours(factor), maps, strict=True):
                size = y.shape[dim]
                near, far = (x.narrow(dim, start, size) for start in (first, first + 1))
                torch.lerp(near, far, weight, out=y)
        return cells.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (count, height, width), factor = ctx.shape, ctx.factor
        cells = gradient.view(count, factor, factor, height, width)
        rows = gradient.new_zeros(count, factor, height, width + 2)
        padded = gradient.new_zeros(count, height + 2, width + 2)
        for x, dim, maps in ((rows, -1, cells.movedim(2, 0)), (padded, -2, rows.movedim(1, 0))):
            for (first, weight), y in zip(_neighbours(factor), maps, strict=True):
                size = y.shape[dim]
                x.narrow(dim, first, size).add_(y, alpha=1 - weight)
                x.narrow(dim, first + 1, size).add_(y, alpha=weight)
        for margin, rim in ((0, 1), (-1, -2)):  # the margin repeats the rim
            padded[:, rim] += padded[:, margin]
            padded[..., rim] += padded[..., margin]
        return padded[:, 1:-1, 1:-1], None


def _neighbours(factor: int) -> list[tuple[int, float]]:
    """Between which neighbours each pixel of a cell lies, and how close to the second.

    The neighbours of cell 1 are 0, 1 and 2; given is the first of two.
    """
    positions = [(i + 0.5) / factor + 0.5 for i in range(factor)]
    return [(int(position), position - int(position)) for position in positions]
