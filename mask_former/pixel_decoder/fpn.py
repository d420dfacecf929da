"""The paper's pixel decoder (section 3.4 and appendix A): a light feature pyramid network."""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers.rounding import keeps_published_rounding
from mask_former.pixel_decoder.build import PIXEL_DECODER_REGISTRY
from mask_former.pixel_decoder.projection import ProjectedPixels, Projection
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
        norm: normalisation of the pyramid's convolutions, as in `detectron2.layers.get_norm`.

    Raises:
        ValueError: `in_features` is empty, or an entry of it is no map of the backbone.
    """

    published_rounding = True

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: list[str],
        conv_dim: int,
        mask_dim: int,
        norm: str = "GN",
    ) -> None:
        super().__init__()
        missing = set(in_features) - set(input_shape)
        if missing or not in_features:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {sorted(missing) or 'no map'}, but the "
                f"backbone gives only {sorted(input_shape)}; see its OUT_FEATURES"
            )
        # From fine to coarse; adapter_1 and layer_1 belong to the finest.
        self.in_features = sorted(in_features, key=lambda name: input_shape[name].stride)
        self.maps_shape = dict(input_shape)
        self.norm = norm
        for i, name in enumerate(self.in_features[:-1], start=1):
            channels = input_shape[name].channels
            self.add_module(f"adapter_{i}", self._conv(channels, conv_dim, kernel_size=1))
            self.add_module(f"layer_{i}", self._conv(conv_dim, conv_dim, activation=F.relu))
        self._add_coarsest(input_shape[self.in_features[-1]].channels, conv_dim)
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)
        self.maps_shape["pixel_embedding"] = ShapeSpec(
            channels=mask_dim, stride=input_shape[self.in_features[0]].stride
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {
            "input_shape": input_shape,
            "in_features": cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
            "conv_dim": cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "norm": cfg.MODEL.SEM_SEG_HEAD.NORM,
        }

    def _conv(self, in_dim: int, out_dim: int, kernel_size: int = 3, activation=None) -> Conv2d:
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

    def _coarsest(self, feature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the top of the pyramid and the maps that were made on the way."""
        return self.get_submodule(f"layer_{len(self.in_features)}")(feature), {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Shapes of `PixelFeatures.maps`."""
        return self.maps_shape

    def forward(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode `features`, {name: (B, C, h, w)}."""
        x, added = self._coarsest(features[self.in_features[-1]])
        for i in range(len(self.in_features) - 1, 0, -1):
            lateral = self.get_submodule(f"adapter_{i}")(features[self.in_features[i - 1]])
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            x = self.get_submodule(f"layer_{i}")(x)
        maps = {**features, **added}
        if not (self.training or keeps_published_rounding(self, x)):
            return ProjectedPixels(Projection(x, self.mask_features), maps)
        embeddings = self.mask_features(x)
        return PixelFeatures(embeddings, {**maps, "pixel_embedding": embeddings})
