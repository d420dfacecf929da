"""The records that travel between the parts of a model, and the shape legend of the package.

Shapes in docstrings are written with these letters:

====  =======================================================================
B     images of a batch
C     channels
H, W  height and width of the padded batch, in pixels
h, w  height and width of a feature map or of mask logits, usually H/4 and W/4
K     classes, without "no object"
L     decoder layers
N     segments of one image (ground truth)
Q     queries
====  =======================================================================
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PixelFeatures:
    """What a pixel decoder makes of the backbone's features.

    Attributes:
        features: what the per-pixel embeddings are made of, (B, C', h, w).
        memory: the feature maps that queries attend to, from coarse to fine, each (B, C'', h', w').
        projection: the convolution, with a bias, that makes them, from C' to C channels. None:
            `features` are the embeddings.
    """

    features: Tensor
    memory: tuple[Tensor, ...]
    projection: nn.Conv2d | None = None

    @property
    def mask_features(self) -> Tensor:
        """The per-pixel embeddings, (B, C, h, w), computed at each access."""
        return self.features if self.projection is None else self.projection(self.features)


@dataclass(frozen=True)
class Prediction:
    """What one decoder layer predicts.

    Attributes:
        class_logits: (B, Q, K+1); the last class is "no object".
        mask_features: per-pixel embeddings, (B, C, h, w).
        mask_embeddings: (B, Q, C). None: `mask_features` are the mask logits, one channel a query.
    """

    class_logits: Tensor
    mask_features: Tensor
    mask_embeddings: Tensor | None = None

    @property
    def mask_logits(self) -> Tensor:
        """(B, Q, h, w), multiplied out at each access; the mask probability is their sigmoid."""
        if self.mask_embeddings is None:
            return self.mask_features
        return multiply_out(self.mask_embeddings, self.mask_features)


def with_shared_features(
    predictions: Sequence[Prediction],
) -> Iterator[tuple[Tensor, list[Prediction]]]:
    """The predictions, grouped by their per-pixel embeddings, which usually are those of all."""
    for _, group in groupby(predictions, lambda prediction: id(prediction.mask_features)):
        group = list(group)
        yield group[0].mask_features, group


def multiply_out(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits of mask embeddings, (B, R, C), and per-pixel embeddings, (B, C, h, w).

    Returns (B, R, h, w); all without B for a single image. One matrix product an image, without
    the copies that einsum makes.
    """
    masks = mask_embeddings @ mask_features.flatten(-2)
    return masks.unflatten(-1, mask_features.shape[-2:])


def multiply_kernels(mask_embeddings: Tensor, features: Tensor, projection: nn.Conv2d) -> Tensor:
    """`multiply_out(mask_embeddings, projection(features))`, the product with the kernels first.

    Both are linear, so that either can come first. For fewer masks than channels that takes fewer
    operations: for 100 masks of 256 channels 0.4 of the convolution's, and no product with pixels.

    Args:
        mask_embeddings: (B, R, C).
        features: (B, C', h, w).
        projection: has a bias, and keeps the size.

    Returns:
        (B, R, h, w).
    """
    kernels = mask_embeddings @ projection.weight.flatten(1)
    kernels = kernels.unflatten(-1, projection.weight.shape[1:])
    biases = mask_embeddings @ projection.bias
    images = zip(features.split(1), kernels, biases, strict=True)
    return torch.cat([F.conv2d(x, k, b, padding=projection.padding) for x, k, b in images])


@dataclass(frozen=True)
class Target:
    """The ground truth of one image, padded to the size of its batch.

    Attributes:
        labels: class of each segment, int64 (N,), in [0, K).
        masks: the segments, bool (N, H, W); they may overlap. N may be 0.
        valid: the pixels that are annotated, bool (H, W): neither padding nor void. None if that
            makes no difference: pixels outside of a segment are background, annotated or not.
    """

    labels: Tensor
    masks: Tensor
    valid: Tensor | None = None


@dataclass(frozen=True)
class Matching:
    """Which query is assigned which segment, for all layers and images of a step.

    All are int64 (M,) on the predictions' device, ordered by layer, image and query. Every layer
    has M / L of the rows.

    Attributes:
        layer: in [0, L).
        image: in [0, B).
        query: in [0, Q).
        segment: index among all segments of the batch, those of image 0 first.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    segment: Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """In float32 where mixed precision computes in 16 bits; float64 stays what it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device` while the host goes on: a GPU reads only pinned memory by itself, and the
    host would wait for everything that the GPU has to do before."""
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
