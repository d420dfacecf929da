"""PEM's pixel decoder (arXiv:2402.19422): deformable convolutions, and gates that see
the whole image, from the coarsest map to the finest."""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mask_former.errors import UserError
from mask_former.layers import DeformableConv2d
from mask_former.pixel_decoder.build import (
    MULTI_SCALE,
    PIXEL_DECODER_REGISTRY,
    check_in_features,
    choose_memory,
    shared_options,
)
from mask_former.structures import PixelFeatures

# Of `detectron2.layers.get_norm`, but for GN: the means of an image over its pixels are normalized,
# too, and a group would have one or two of them.
NORMS = ("BN", "SyncBN", "FrozenBN", "LN", "")


@PIXEL_DECODER_REGISTRY.register()
class PEM_Pixel_Decoder(nn.Module):
    """A pyramid from the coarsest map to the finest, then the per-pixel embeddings.

    Every map is projected and gated by its context. All but the finest then pass a deformable
    convolution, which gives a map of the memory, and are upsampled, to join the next finer map.

    Args:
        input_shape: shapes of the backbone's maps.
        in_features: names of the maps that form the pyramid, in any order.
        conv_dim: channels of the pyramid.
        mask_dim: channels of the per-pixel embeddings.
        norm: normalization of all convolutions, one of `NORMS`.
        memory: what queries attend to, see `PIXEL_DECODER_REGISTRY`.

    Raises:
        UserError: `in_features` is empty, or an entry of it is no map of the backbone; a stride is
            not twice the next finer one; there is no such norm, memory or operator.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: list[str],
        conv_dim: int = 128,
        mask_dim: int = 256,
        norm: str = "SyncBN",
        memory: str = MULTI_SCALE,
    ) -> None:
        super().__init__()
        check_in_features(in_features, input_shape, "IN_FEATURES")
        # From fine to coarse, as the published weights number the projections.
        self.in_features = sorted(in_features, key=lambda name: input_shape[name].stride)
        strides = [input_shape[name].stride for name in self.in_features]
        if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:], strict=False)):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names maps of the strides {strides}, but "
                f"{type(self).__name__} doubles the size of a map to join the next finer one. Name "
                "maps whose strides double"
            )
        if norm not in NORMS:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NORM is {norm!r}, but {type(self).__name__} needs one of "
                f"{', '.join(NORMS[:-1])}, or none ('')"
            )
        channels = [input_shape[name].channels for name in self.in_features]
        self.in_projections = nn.ModuleList(ConvNormReLU(c, conv_dim, norm) for c in channels)
        self.conv_avg = ConvNormReLU(channels[-1], conv_dim, norm)
        # From coarse to fine.
        self.csm = nn.ModuleList(ContextGate(conv_dim, norm) for _ in channels)
        self.dcn = nn.ModuleList(DeformableUpsampling(conv_dim, norm) for _ in channels[1:])
        # With a ReLU, as published, so that per-pixel embeddings are not negative.
        self.out = ConvNormReLU(conv_dim, mask_dim, norm)

        self.memory = memory
        pyramid = [ShapeSpec(channels=conv_dim, stride=stride) for stride in reversed(strides[1:])]
        self.embedding_stride = strides[0]
        embedding = ShapeSpec(channels=mask_dim, stride=self.embedding_stride)
        self.memory_shape = choose_memory(memory, input_shape, pyramid, pixel_embedding=embedding)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return shared_options(cfg, input_shape)

    def forward(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode `features`, {name: (B, C, h, w)}.

        Raises:
            UserError: a batch norm has a single image to learn from.
        """
        coarsest = features[self.in_features[-1]]
        if len(coarsest) == 1:
            self._check_norms_of_one_image()
        x = self.conv_avg(coarsest.mean((2, 3), keepdim=True))
        pyramid = []
        projections = zip(self.in_features, self.in_projections, strict=True)
        for i, (name, project) in enumerate(reversed(list(projections))):
            feature = self.csm[i](project(features[name]))
            # A map of odd height is less than twice as high as the coarser one.
            x = feature + x[..., : feature.shape[-2], : feature.shape[-1]]
            if i < len(self.dcn):
                feature, x = self.dcn[i](x)
                pyramid.append(feature)
        embeddings = self.out(x)
        memory = choose_memory(self.memory, features, pyramid, pixel_embedding=embeddings)
        return PixelFeatures(embeddings, memory)

    def _check_norms_of_one_image(self) -> None:
        """Of one image there is one mean, which has no variance."""
        norm = self.conv_avg.bn
        alone = not isinstance(norm, nn.SyncBatchNorm) or comm.get_world_size() == 1
        if isinstance(norm, _BatchNorm) and norm.training and alone:
            raise UserError(
                f"{type(self).__name__} normalizes the means of the images of a batch, and has one "
                "image. A process needs two at a time: raise SOLVER.IMS_PER_BATCH, lower "
                "SOLVER.ACCUMULATION_STEPS, or set MODEL.SEM_SEG_HEAD.NORM to LN."
            )


class ConvNormReLU(nn.Module):
    """A 1x1 convolution, a normalization, a ReLU."""

    def __init__(self, in_dim: int, out_dim: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size=1, bias=False)
        self.bn = _norm(norm, out_dim)
        nn.init.kaiming_normal_(self.conv.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        return F.relu(self.bn(self.conv(x)))


class ContextGate(nn.Module):
    """Raises every channel by as much as the mean of the image over all channels says."""

    def __init__(self, dim: int, norm: str) -> None:
        super().__init__()
        gate = nn.Sequential(
            nn.Conv2d(dim, dim // 2, kernel_size=1, bias=False),
            _norm(norm, dim // 2),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, kernel_size=1, bias=False),
            nn.Sigmoid(),
        )
        # The published weights name it `mlp.0.mlp`.
        self.mlp = nn.ModuleList([nn.ModuleDict({"mlp": gate})])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        gate = self.mlp[0]["mlp"](x.mean((2, 3), keepdim=True))
        # A sigmoid of a sigmoid, as published: the factor is in (1.5, 1.74), and never near 1.
        return x + x * gate.sigmoid()


class DeformableUpsampling(nn.Module):
    """A deformable 3x3 convolution, and its result at twice the size."""

    def __init__(self, dim: int, norm: str) -> None:
        super().__init__()
        # Where each of the 9 cells reads, (y, x), and how much that counts. At first each reads its
        # own place, with the factor 1/2.
        self.dcn_offset = nn.Conv2d(dim, 27, kernel_size=3, padding=1)
        nn.init.zeros_(self.dcn_offset.weight)
        nn.init.zeros_(self.dcn_offset.bias)
        self.dcn = DeformableConv2d(dim, dim, kernel_size=3, padding=1, bias=False)
        weight_init.c2_msra_fill(self.dcn)
        self.dcn_bn = _norm(norm, dim)
        self.up_sample = nn.ConvTranspose2d(
            dim, dim, kernel_size=4, stride=2, padding=1, bias=False
        )
        # As published: the kernel of bilinear upsampling, but only into the first channel; what
        # leads to the others is PyTorch's random default.
        with torch.no_grad():
            self.up_sample.weight[:, 0] = _bilinear_kernel()
        self.up_bn = _norm(norm, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> (B, C, h, w) and (B, C, 2h, 2w)."""
        offset, modulation = self.dcn_offset(x).split((18, 9), dim=1)
        x = F.relu(self.dcn_bn(self.dcn(x, offset, modulation.sigmoid())))
        return x, F.relu(self.up_bn(self.up_sample(x)))


def _bilinear_kernel() -> Tensor:
    """The kernel that doubles the size, (4, 4)."""
    weights = torch.tensor([0.25, 0.75, 0.75, 0.25])
    return weights[:, None] * weights


def _norm(norm: str, dim: int) -> nn.Module:
    return get_norm(norm, dim) or nn.Identity()
