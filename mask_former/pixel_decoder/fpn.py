"""The paper's pixel decoder (section 3.4 and appendix A): a light feature pyramid network."""

from collections.abc import Callable
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from mask_former.pixel_decoder.build import (
    PIXEL_DECODER_REGISTRY,
    PIXEL_EMBEDDING,
    check_in_features,
    choose_memory,
    shared_options,
)
from mask_former.structures import PixelFeatures


@PIXEL_DECODER_REGISTRY.register()
class BasePixelDecoder(nn.Module):
    """A feature pyramid from the coarsest map to the finest, then the per-pixel embeddings.

    On the way up a map is upsampled by nearest neighbour, added to the projection of the next
    finer backbone map and smoothed by a 3x3 convolution.

    Args:
        input_shape: shapes of the backbone's maps.
        in_features: names of the maps that form the pyramid, in any order.
        conv_dim: channels of the pyramid.
        mask_dim: channels of the per-pixel embeddings.
        norm: normalization of the pyramid's convolutions, as in `detectron2.layers.get_norm`.
        memory: what queries attend to, see `PIXEL_DECODER_REGISTRY`.

    Raises:
        UserError: `in_features` is empty, or an entry of it is no map of the backbone; there is no
            such memory.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: list[str],
        conv_dim: int,
        mask_dim: int,
        norm: str = "GN",
        memory: str = "res5",
    ) -> None:
        super().__init__()
        check_in_features(in_features, input_shape, "IN_FEATURES")
        # From fine to coarse; adapter_1 and layer_1 belong to the finest.
        self.in_features = sorted(in_features, key=lambda name: input_shape[name].stride)
        self.norm = norm
        for i, name in enumerate(self.in_features[:-1], start=1):
            channels = input_shape[name].channels
            self.add_module(f"adapter_{i}", self._conv(channels, conv_dim, kernel_size=1))
            self.add_module(f"layer_{i}", self._conv(conv_dim, conv_dim, activation=F.relu))
        self._add_coarsest(input_shape[self.in_features[-1]].channels, conv_dim)
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

        self.memory = memory
        strides = [input_shape[name].stride for name in reversed(self.in_features)]
        pyramid = [ShapeSpec(channels=conv_dim, stride=stride) for stride in strides]
        self.embedding_stride = strides[-1]
        embedding = ShapeSpec(channels=mask_dim, stride=self.embedding_stride)
        others = {**self._offered_by_coarsest(pyramid[0]), PIXEL_EMBEDDING: embedding}
        self.memory_shape = choose_memory(memory, input_shape, pyramid, **others)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return shared_options(cfg, input_shape)

    def _conv(
        self,
        in_dim: int,
        out_dim: int,
        kernel_size: int = 3,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> Conv2d:
        conv = Conv2d(
            in_dim,
            out_dim,
            kernel_size=kernel_size,
            padding=kernel_size // 2,
            bias=not self.norm,
            norm=get_norm(self.norm, out_dim),
            activation=activation,
        )
        weight_init.c2_xavier_fill(conv)
        return conv

    def _add_coarsest(self, in_dim: int, conv_dim: int) -> None:
        """Add the layers that turn the coarsest backbone map into the top of the pyramid."""
        self.add_module(
            f"layer_{len(self.in_features)}", self._conv(in_dim, conv_dim, activation=F.relu)
        )

    def _offered_by_coarsest(self, shape: ShapeSpec) -> dict[str, ShapeSpec]:
        """Shapes of the memory that those layers offer besides, by name."""
        return {}

    def _coarsest(self, feature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The top of the pyramid, and the memory that the layers offer besides."""
        return self.get_submodule(f"layer_{len(self.in_features)}")(feature), {}

    def forward(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode `features`, {name: (B, C, h, w)}."""
        x, others = self._coarsest(features[self.in_features[-1]])
        pyramid = [x]
        for i in range(len(self.in_features) - 1, 0, -1):
            lateral = self.get_submodule(f"adapter_{i}")(features[self.in_features[i - 1]])
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            x = self.get_submodule(f"layer_{i}")(x)
            pyramid.append(x)
        if self.memory == PIXEL_EMBEDDING:
            embeddings = self.mask_features(x)
            return PixelFeatures(embeddings, (embeddings,))
        memory = choose_memory(self.memory, features, pyramid, **others)
        return PixelFeatures(x, memory, self.mask_features)
