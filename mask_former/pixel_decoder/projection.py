"""Per-pixel embeddings that inference need not compute."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.structures import PixelFeatures


class Projection:
    """A convolution that is carried out if its result is asked for.

    Args:
        x: (B, C', h, w).
        conv: with a bias.
    """

    def __init__(self, x: Tensor, conv: nn.Conv2d) -> None:
        self.x, self.conv = x, conv

    @cached_property
    def result(self) -> Tensor:
        """(B, C, h, w)."""
        return self.conv(self.x)

    def combined(self, weights: Tensor) -> Tensor:
        """Sums of the result's channels, (B, R, h, w), with `weights` (B, R, C).

        The weights are multiplied with the kernels, which then make the sums at once.
        """
        conv = self.conv
        kernels = (weights @ conv.weight.flatten(1)).unflatten(-1, conv.weight.shape[1:])
        biases = weights @ conv.bias
        sums = [
            F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation)
            for x, kernel, bias in zip(self.x.split(1), kernels, biases, strict=True)
        ]
        return torch.cat(sums).contiguous()


class ProjectedPixels(PixelFeatures):
    """Pixel features whose per-pixel embeddings are a convolution of a map.

    A mask is the product of its embedding and those of the pixels. As both this product and the
    convolution are linear, either can come first. Where there are fewer masks than channels it
    takes fewer operations to multiply the mask embeddings with the kernels: with 100 queries 0.4
    of those of the convolution, and none for a product with all pixels.

    Args:
        projection: makes the per-pixel embeddings, `mask_features`.
        maps: see `PixelFeatures`; the embeddings are added as "pixel_embedding".
    """

    def __init__(self, projection: Projection, maps: Mapping[str, Tensor]) -> None:
        # The class is frozen.
        self.__dict__.update(projection=projection, maps=_Maps(projection, maps))

    @property
    def mask_features(self) -> Tensor:
        return self.projection.result

    def masks(self, embeddings: Tensor) -> Tensor:
        """See `PixelFeatures.masks`."""
        if embeddings.shape[1] < self.projection.conv.out_channels:
            return self.projection.combined(embeddings)
        return super().masks(embeddings)


class _Maps(Mapping[str, Tensor]):
    """The maps, and the per-pixel embeddings, which are computed if they are asked for."""

    def __init__(self, projection: Projection, maps: Mapping[str, Tensor]) -> None:
        self._projection, self._maps = projection, maps

    def __getitem__(self, name: str) -> Tensor:
        return self._projection.result if name == "pixel_embedding" else self._maps[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._maps
        yield "pixel_embedding"

    def __len__(self) -> int:
        return len(self._maps) + 1
