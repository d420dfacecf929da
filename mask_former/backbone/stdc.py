"""STDC networks (arXiv:2104.13188, section 3.1): light backbones for real-time segmentation."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from mask_former.backbone.checkpointing import checkpointed
from mask_former.backbone.pyramid import PyramidBackbone
from mask_former.errors import UserError, check_choice

NORMS = ("BN", "SyncBN", "FrozenBN", "GN")
BASE = 64  # channels of the first map
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@BACKBONE_REGISTRY.register()
class D2STDCnet(PyramidBackbone):
    """Two strided convolutions, then three stages of short-term dense concatenate (STDC) blocks.

    The weights are named as STDC's authors name them, behind `backbone.`.

    Args:
        layers: blocks of each stage: STDC1 has (2, 2, 2), STDC2 (4, 5, 3).
        num_convs: convolutions of a block.
        norm: normalization of all convolutions, one of `NORMS`.
        out_features: names of the maps to return: res2 has stride 4, ... res5 32.
        in_chans: channels of the images.
        freeze_at: 1: the first convolution does not learn, and its norm keeps its statistics; 2:
            nor the second, which makes res2; n: nor the stages up to that of `res{n}`.

    Raises:
        UserError: not three stages of at least a block; less than two convolutions; an unknown norm
            or map.
    """

    pretrained_part = "features."  # what a file of weights must hold

    @configurable
    def __init__(
        self,
        *,
        layers: Sequence[int] = (2, 2, 2),
        num_convs: int = 4,
        norm: str = "BN",
        out_features: Sequence[str] = tuple(STRIDES),
        in_chans: int = 3,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        _check(layers, num_convs, norm, out_features)
        channels = [BASE] + [BASE * 4 * 2**i for i in range(len(layers))]
        features: list[nn.Module] = [
            ConvNormReLU(in_chans, BASE // 2, norm, stride=2),
            ConvNormReLU(BASE // 2, BASE, norm, stride=2),
        ]
        # Index of the last layer of each map; the first convolution makes a map of stride 2.
        ends = [0, 1]
        for (in_dim, out_dim), blocks in zip(pairwise(channels), layers, strict=True):
            features.append(STDCBlock(in_dim, out_dim, num_convs, norm, stride=2))
            features += [STDCBlock(out_dim, out_dim, num_convs, norm) for _ in range(blocks - 1)]
            ends.append(len(features) - 1)
        self._names: dict[int, str] = {}  # of the maps, by the index of the layer
        self.shapes: dict[str, ShapeSpec] = {}
        for (name, stride), end, dim in zip(STRIDES.items(), ends[1:], channels, strict=True):
            if name in out_features:
                self._names[end] = name
                self.shapes[name] = ShapeSpec(channels=dim, stride=stride)
        # Layers that only other maps need are not made.
        self.features = nn.ModuleList(features[: max(self._names) + 1])
        last_frozen = ends[min(freeze_at, len(ends)) - 1] if freeze_at > 0 else -1
        self.frozen = list(self.features)[: last_frozen + 1]
        for layer in self.frozen:
            layer.requires_grad_(False)
        self._checkpointing = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.MODEL.STDC
        if keys.BLOCK_TIPE != "cat":
            raise UserError(
                f"MODEL.STDC.BLOCK_TIPE is {keys.BLOCK_TIPE!r}, but blocks here concatenate the "
                "outputs of their convolutions: it must be 'cat'."
            )
        if keys.USE_CONV_LAST:
            raise UserError(
                "MODEL.STDC.USE_CONV_LAST is True, but that convolution belongs to the classifier, "
                "which a backbone does not have: set it to False."
            )
        return {
            "layers": keys.LAYERS,
            "num_convs": keys.BLOCK_NUM,
            "norm": keys.NORM,
            "out_features": keys.OUT_FEATURES,
            "in_chans": input_shape.channels,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def set_grad_checkpointing(self) -> None:
        """Compute the activations of every block again for gradients, instead of keeping them."""
        self._checkpointing = True

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/stride, W/stride)}, sizes rounded up."""
        outputs = {}
        for i, layer in enumerate(self.features):
            x = checkpointed(layer, x) if self._checkpointing and self.training else layer(x)
            if i in self._names:
                outputs[self._names[i]] = x
        return outputs


class ConvNormReLU(nn.Module):
    """A convolution, a normalization, a ReLU."""

    def __init__(
        self, in_dim: int, out_dim: int, norm: str, *, kernel_size: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_dim, out_dim, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.bn = get_norm(norm, out_dim)
        weight_init.c2_msra_fill(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h/stride, w/stride)."""
        return F.relu(self.bn(self.conv(x)))


class STDCBlock(nn.Module):
    """Convolutions one after the other, of less and less channels, whose outputs are concatenated.

    Half of the channels are of the first, 1x1, a quarter of the second, ..., and what remains is of
    the last. A block of stride 2 halves the size behind the first: by a strided convolution of each
    channel for the next, by averages for what is concatenated.
    """

    def __init__(
        self, in_dim: int, out_dim: int, num_convs: int, norm: str, *, stride: int = 1
    ) -> None:
        super().__init__()
        dims = [out_dim // 2**i for i in range(1, num_convs)]
        dims.append(dims[-1])
        self.conv_list = nn.ModuleList([ConvNormReLU(in_dim, dims[0], norm, kernel_size=1)])
        self.conv_list.extend(ConvNormReLU(i, o, norm) for i, o in pairwise(dims))
        self.stride = stride
        if stride == 2:
            conv = nn.Conv2d(dims[0], dims[0], 3, stride, padding=1, groups=dims[0], bias=False)
            weight_init.c2_msra_fill(conv)
            self.avd_layer = nn.Sequential(conv, get_norm(norm, dims[0]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h/stride, w/stride)."""
        first, *others = self.conv_list
        x = first(x)
        outputs = [x]
        if self.stride == 2:
            outputs = [F.avg_pool2d(x, kernel_size=3, stride=2, padding=1)]
            x = self.avd_layer(x)
        for conv in others:
            x = conv(x)
            outputs.append(x)
        return torch.cat(outputs, dim=1)


def _check(layers: Sequence[int], num_convs: int, norm: str, out_features: Sequence[str]) -> None:
    stages = len(STRIDES) - 1
    if len(layers) != stages or min(layers) < 1:
        raise UserError(
            f"MODEL.STDC.LAYERS is {list(layers)}; it must be {stages} numbers of blocks, each at "
            "least 1."
        )
    if not 2 <= num_convs <= 6:
        raise UserError(f"MODEL.STDC.BLOCK_NUM is {num_convs}; it must be in 2..6.")
    check_choice("MODEL.STDC.NORM", norm, NORMS)
    if not out_features or not set(out_features) <= set(STRIDES):
        raise UserError(
            f"MODEL.STDC.OUT_FEATURES is {list(out_features)}; it must be some of "
            f"{', '.join(STRIDES)}."
        )
