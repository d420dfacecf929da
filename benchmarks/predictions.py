"""Predictions of a network, made up, and those of peers in our record."""

from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.inference.resize import Size, Sizes
from mask_former.structures import Prediction


def prediction_of_masks(class_logits: Tensor, mask_logits: Tensor) -> Prediction:
    """Our record of (B, Q, K + 1) and (B, Q, h, w)."""
    return Prediction(class_logits, mask_logits)


class Scene(NamedTuple):
    """Predictions for an image, and the sizes that its masks go through."""

    class_logits: Tensor
    mask_logits: Tensor
    sizes: Sizes

    @property
    def things(self) -> range:
        return range((self.class_logits.shape[1] - 1) // 2)

    @property
    def hugging_face(self) -> SimpleNamespace:
        return SimpleNamespace(
            class_queries_logits=self.class_logits[None],
            masks_queries_logits=self.mask_logits[None],
        )


def make_scene(
    mask_size: Size,
    sizes: Sizes,
    *,
    classes: int,
    device: str,
    queries: int = 100,
    segments: int = 12,
) -> Scene:
    """Smooth masks; the first `segments` queries are confident, the others found no object."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(queries, 1, 7, 10, generator=generator)
    masks = 8 * F.interpolate(noise, size=mask_size, mode="bicubic")[:, 0]
    logits = torch.randn(queries, classes + 1, generator=generator)
    labels = torch.randint(classes, (segments,), generator=generator)
    certain = 4 + torch.tensor(classes).log() + 2 * torch.rand(queries, generator=generator)
    logits[range(segments), labels] += certain[:segments]
    logits[segments:, -1] += certain[segments:]
    return Scene(logits.to(device), masks.to(device), sizes)
