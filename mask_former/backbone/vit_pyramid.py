"""ViTDet's simple feature pyramid (arXiv:2203.16527, section 3): a plain ViT under heads that want
maps of several strides."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from mask_former.backbone.vit import KEY, ViTEncoder
from mask_former.errors import UserError


@BACKBONE_REGISTRY.register()
class ViTPyramid(Backbone):
    """A plain ViT whose last map is brought to other strides, each by layers of its own.

    Args:
        encoder: the ViT.
        out_features: names of the maps: res2 has stride 4, ... res5 32.
        channels: of every map.

    Raises:
        UserError: a name is not of that form; the ViT's patches are not a power of two wide, or the
            model's channels cannot be halved as often as a map is doubled.
    """

    pretrained_part = "encoder."  # what a file of weights must hold

    @configurable
    def __init__(
        self,
        *,
        encoder: ViTEncoder,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        channels: int = 256,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        known = {f"res{i}": 2**i for i in range(1, 8)}
        if not out_features or not set(out_features) <= known.keys():
            raise UserError(
                f"MODEL.VIT.OUT_FEATURES is {list(out_features)}; known are {', '.join(known)}."
            )
        if encoder.patch_size not in known.values():
            raise UserError(
                f"{KEY}: the patches of that model are {encoder.patch_size} pixels wide, which "
                "makes no map of stride 4, 8, 16 or 32. Set MODEL.VIT.PATCH_SIZE to 16; its kernel "
                "is interpolated."
            )
        self._shapes = {
            name: ShapeSpec(channels=channels, stride=known[name])
            for name in sorted(out_features, key=known.__getitem__)
        }
        for name, shape in self._shapes.items():
            scale = encoder.patch_size / shape.stride
            self.add_module(name, nn.Sequential(*_rescale(encoder.channels, channels, scale)))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            "encoder": ViTEncoder(cfg, input_shape),
            "out_features": cfg.MODEL.VIT.OUT_FEATURES,
            "channels": cfg.MODEL.VIT.OUT_CHANNELS,
        }

    @property
    def size_divisibility(self) -> int:
        return max(self.encoder.patch_size, *(shape.stride for shape in self._shapes.values()))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of every block again for gradients, instead of keeping them."""
        self.encoder.set_grad_checkpointing(enable)

    def convert_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `ViTEncoder.convert_weights`."""
        return self.encoder.convert_weights(weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/stride, W/stride)}, sizes rounded up."""
        height, width = images.shape[-2:]
        patches = self.encoder(images).patches
        maps = {}
        for name, shape in self._shapes.items():
            feature = self.get_submodule(name)(patches)
            # Whole patches may reach over the image.
            rows, columns = -(-height // shape.stride), -(-width // shape.stride)
            maps[name] = feature[..., :rows, :columns]
        return maps


def _rescale(in_dim: int, out_dim: int, scale: float) -> list[nn.Module]:
    """Layers that make a map `scale` times as large and give it `out_dim` channels."""
    layers: list[nn.Module] = []
    while scale > 1:
        if layers:
            layers += [get_norm("LN", in_dim), nn.GELU()]
        layers.append(nn.ConvTranspose2d(in_dim, in_dim // 2, kernel_size=2, stride=2))
        in_dim, scale = in_dim // 2, scale / 2
    while scale < 1:
        layers.append(nn.MaxPool2d(kernel_size=2, ceil_mode=True))
        scale *= 2
    norms = [get_norm("LN", out_dim) for _ in range(2)]
    layers.append(Conv2d(in_dim, out_dim, kernel_size=1, bias=False, norm=norms[0]))
    layers.append(Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False, norm=norms[1]))
    return layers
