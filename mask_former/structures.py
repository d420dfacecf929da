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

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PixelFeatures:
    """What a pixel decoder makes of the backbone's features.

    Attributes:
        mask_features: per-pixel embeddings, (B, C, h, w).
        maps: the feature maps that queries may attend to, by name, each (B, C', h', w'): those
            of the backbone and those that the decoder adds.
    """

    mask_features: Tensor
    maps: Mapping[str, Tensor]

    def masks(self, embeddings: Tensor) -> Tensor:
        """Mask logits of mask embeddings, (B, R, C) -> (B, R, h, w)."""
        masks = embeddings @ self.mask_features.flatten(2)
        return masks.unflatten(-1, self.mask_features.shape[-2:])


@dataclass(frozen=True)
class Prediction:
    """What one decoder layer predicts.

    Attributes:
        class_logits: (B, Q, K+1); the last class is "no object".
        mask_logits: (B, Q, h, w); the mask probability is their sigmoid.
        mask_embeddings, mask_features: (B, Q, C) and (B, C, h, w), if `mask_logits` are their
            product. Masks that are learned can then be multiplied out on their own, so that the
            gradient need not pass through all the others.
    """

    class_logits: Tensor
    mask_logits: Tensor
    mask_embeddings: Tensor | None = None
    mask_features: Tensor | None = None


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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device` while the host goes on: a GPU reads only pinned memory by itself, and the
    host would wait for everything that the GPU has to do before."""
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
