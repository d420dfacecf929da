"""Mask2Former's pixel decoder (section 4.1): a deformable encoder of several maps, then an FPN."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.layers import DeformableEncoder, TransformerOptions
from mask_former.pixel_decoder.build import (
    MULTI_SCALE,
    PIXEL_DECODER_REGISTRY,
    check_in_features,
    choose_memory,
    shared_options,
)
from mask_former.structures import PixelFeatures, at_least_float32

DIM_FEEDFORWARD = 1024  # whatever MODEL.MASK_FORMER.DIM_FEEDFORWARD is, which is the predictor's


@PIXEL_DECODER_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """A deformable transformer encoder over the coarser maps, then an FPN to the finer ones.

    Offers its maps as the memory "multi_scale_pixel_decoder", and the coarsest encoded one as
    "transformer_encoder". It computes in float32, as published, mixed precision or not; only the
    per-pixel embeddings are converted at the end.

    Args:
        input_shape: shapes of the backbone's maps.
        in_features: names of the maps that are decoded, in any order. Those finer than the
            encoder's join by the FPN.
        encoder_in_features: names of the maps that the encoder attends to, in any order.
        common_stride: stride of the finest map that joins, and of the per-pixel embeddings.
        conv_dim: channels of the encoder and of the FPN.
        mask_dim: channels of the per-pixel embeddings.
        num_layers: depth of the encoder.
        num_points: points that each of its heads samples of each map.
        transformer: hyper-parameters of its layers; they are post-norm.
        norm: normalization of the FPN's convolutions, as in `detectron2.layers.get_norm`.
        memory: what queries attend to, see `PIXEL_DECODER_REGISTRY`.

    Raises:
        UserError: a map is no map of the backbone; no map has the common stride; the heads do not
            divide the channels; there is no such memory.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: list[str],
        encoder_in_features: list[str],
        common_stride: int = 4,
        conv_dim: int = 256,
        mask_dim: int = 256,
        num_layers: int = 6,
        num_points: int = 4,
        transformer: TransformerOptions | None = None,
        norm: str = "GN",
        memory: str = MULTI_SCALE,
    ) -> None:
        super().__init__()
        check_in_features(in_features, input_shape, "IN_FEATURES")
        check_in_features(
            encoder_in_features, input_shape, "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
        )
        strides = {name: shape.stride for name, shape in input_shape.items()}
        # From coarse to fine.
        self.encoded = sorted(encoder_in_features, key=strides.__getitem__, reverse=True)
        self.lateral = _finer_maps(in_features, self.encoded[-1], common_stride, strides)
        self.input_proj = nn.ModuleList(
            _input_projection(input_shape[name].channels, conv_dim) for name in self.encoded
        )
        # The published weights name it `transformer`.
        self.transformer = DeformableEncoder(
            conv_dim, len(self.encoded), num_layers, num_points, transformer or TransformerOptions()
        )
        for i, name in enumerate(reversed(self.lateral), start=1):
            self.add_module(f"adapter_{i}", _conv(input_shape[name].channels, conv_dim, 1, norm))
            self.add_module(f"layer_{i}", _conv(conv_dim, conv_dim, 3, norm))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.mask_features)

        self.memory = memory
        names = (*self.encoded, *self.lateral)
        pyramid = [ShapeSpec(channels=conv_dim, stride=strides[name]) for name in names]
        self.embedding_stride = pyramid[-1].stride
        embedding = ShapeSpec(channels=mask_dim, stride=self.embedding_stride)
        self.memory_shape = choose_memory(
            memory,
            input_shape,
            pyramid,
            transformer_encoder=pyramid[0],
            pixel_embedding=embedding,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head, keys = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
        return {
            **shared_options(cfg, input_shape),
            "encoder_in_features": head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "common_stride": head.COMMON_STRIDE,
            "num_layers": head.TRANSFORMER_ENC_LAYERS,
            "num_points": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
            "transformer": TransformerOptions(
                num_heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
                dim_feedforward=DIM_FEEDFORWARD,
                dropout=keys.DROPOUT,
            ),
        }

    def forward(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode `features`, {name: (B, C, h, w)}."""
        device = next(iter(features.values())).device.type
        # The meta device, on which costs are counted, has no mixed precision.
        mixed = device != "meta" and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            inputs = zip(self.encoded, self.input_proj, strict=True)
            maps = [project(at_least_float32(features[name])) for name, project in inputs]
            maps = self.transformer(maps)
            for i, name in zip(range(len(self.lateral), 0, -1), self.lateral, strict=True):
                lateral = self.get_submodule(f"adapter_{i}")(at_least_float32(features[name]))
                x = F.interpolate(
                    maps[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False
                )
                maps.append(F.relu(self.get_submodule(f"layer_{i}")(lateral + x)))
            embeddings = self.mask_features(maps[-1])
        if mixed:
            # Converted once: every prediction multiplies them out in that type.
            embeddings = embeddings.to(torch.get_autocast_dtype(device))
        memory = choose_memory(
            self.memory, features, maps, transformer_encoder=maps[0], pixel_embedding=embeddings
        )
        return PixelFeatures(embeddings, memory)


def _finer_maps(
    names: Sequence[str], encoded: str, common_stride: int, strides: dict[str, int]
) -> list[str]:
    """The maps finer than the finest encoded one, as far as the common stride, coarse to fine."""
    finer = [name for name in names if common_stride <= strides[name] < strides[encoded]]
    finer.sort(key=strides.__getitem__, reverse=True)
    finest = (finer or [encoded])[-1]
    if strides[finest] != common_stride:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {common_stride}, but no map of its IN_FEATURES "
            f"{list(names)} has that stride; the finest one to decode is {finest}, of stride "
            f"{strides[finest]}. Set COMMON_STRIDE to that, or name a finer map"
        )
    return finer


def _input_projection(in_dim: int, conv_dim: int) -> nn.Sequential:
    conv = nn.Conv2d(in_dim, conv_dim, kernel_size=1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, get_norm("GN", conv_dim))


def _conv(in_dim: int, out_dim: int, kernel_size: int, norm: str) -> Conv2d:
    conv = Conv2d(
        in_dim,
        out_dim,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_dim),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
