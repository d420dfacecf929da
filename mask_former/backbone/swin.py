"""Swin Transformer (arXiv:2103.14030) as a backbone, under the published names and keys.

Maps of tokens are (B, H, W, C) all the way; the rest of the shape legend is in `windows.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from mask_former.backbone.checkpointing import checkpointed
from mask_former.backbone.swin_block import Block
from mask_former.backbone.windows import Windows
from mask_former.errors import UserError


@BACKBONE_REGISTRY.register()
class D2SwinTransformer(Backbone):
    """Swin Transformer with the output names res2 ... res5.

    Stages after the last one that is asked for are not made.

    Args:
        out_features: names of the stages to return, of res2, res3, res4, res5.
        pretrain_img_size: side of the images of the pretraining, in pixels, which the absolute
            positions are of.
        patch_size: side of the patches that become tokens, in pixels.
        in_chans: channels of the images.
        embed_dim: channels of the first stage; each further one has twice those before it.
        depths: number of blocks of each stage.
        num_heads: number of attention heads of each stage.
        window_size: side of the windows, in tokens.
        mlp_ratio: hidden channels of the feed-forward networks over those outside.
        qkv_bias: queries, keys and values have a bias.
        qk_scale: factor of the products of queries and keys; None: 1 / sqrt(channels of a head).
        drop_rate: dropout of tokens at the start and at the end of each residual branch.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: probability with which the last block's residual branches are left out for
            an image in training; it grows from 0 with the depth.
        ape: add learned absolute positions to the patches.
        patch_norm: normalize the patches.

    Raises:
        UserError: a name in `out_features` is no stage, or there is none; `drop_path_rate` is
            not in [0, 1); the heads of a stage do not divide its channels.
    """

    @configurable
    def __init__(
        self,
        *,
        out_features: Sequence[str],
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.3,
        ape: bool = False,
        patch_norm: bool = True,
    ) -> None:
        super().__init__()
        stages = [f"res{i + 2}" for i in range(len(depths))]
        if not out_features or not set(out_features) <= set(stages):
            raise UserError(
                f"MODEL.SWIN.OUT_FEATURES is {list(out_features)}; it must name some of {stages}"
            )
        if not 0 <= drop_path_rate < 1:
            raise UserError(f"MODEL.SWIN.DROP_PATH_RATE is {drop_path_rate}; it must be in [0, 1)")
        self._outputs = [i for i, name in enumerate(stages) if name in out_features]
        num_stages = 1 + self._outputs[-1]
        self.channels = [embed_dim * 2**i for i in range(num_stages)]
        if len(num_heads) < num_stages or any(
            dim % heads for dim, heads in zip(self.channels, num_heads, strict=False)
        ):
            raise UserError(
                f"MODEL.SWIN.NUM_HEADS is {list(num_heads)}; every stage needs a number that "
                f"divides its channels, {self.channels}"
            )
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, norm=patch_norm)
        self.absolute_pos_embed = None
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)
        deepest = max(sum(depths) - 1, 1)
        drop_paths = [drop_path_rate * i / deepest for i in range(sum(depths))]
        self.layers = nn.ModuleList(
            Stage(
                channels,
                drop_paths[sum(depths[:i]) : sum(depths[: i + 1])],
                downsample=i + 1 < num_stages,
                num_heads=num_heads[i],
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
            )
            for i, channels in enumerate(self.channels)
        )
        for i in self._outputs:
            self.add_module(f"norm{i}", nn.LayerNorm(self.channels[i]))
        self.apply(_init_linear)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.MODEL.SWIN
        return {
            "out_features": keys.OUT_FEATURES,
            "pretrain_img_size": keys.PRETRAIN_IMG_SIZE,
            "patch_size": keys.PATCH_SIZE,
            "in_chans": input_shape.channels,
            "embed_dim": keys.EMBED_DIM,
            "depths": keys.DEPTHS,
            "num_heads": keys.NUM_HEADS,
            "window_size": keys.WINDOW_SIZE,
            "mlp_ratio": keys.MLP_RATIO,
            "qkv_bias": keys.QKV_BIAS,
            "qk_scale": keys.QK_SCALE,
            "drop_rate": keys.DROP_RATE,
            "attn_drop_rate": keys.ATTN_DROP_RATE,
            "drop_path_rate": keys.DROP_PATH_RATE,
            "ape": keys.APE,
            "patch_norm": keys.PATCH_NORM,
        }

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            f"res{i + 2}": ShapeSpec(channels=self.channels[i], stride=self.patch_size * 2**i)
            for i in self._outputs
        }

    def no_weight_decay(self) -> set[str]:
        """Names of the position embeddings, which are bare parameters."""
        embeddings = ("relative_position_bias_table", "absolute_pos_embed")
        return {name for name, _ in self.named_parameters() if name.endswith(embeddings)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of every block again for gradients, instead of keeping them."""
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/stride, W/stride)}, sizes rounded up.

        The maps have the memory format of the first weights.
        """
        planes = self.patch_embed.proj.weight.is_contiguous()
        layout = torch.contiguous_format if planes else torch.channels_last
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            positions = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + positions.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        outputs = {}
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self._outputs:
                feature = self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2)
                outputs[f"res{i + 2}"] = feature.contiguous(memory_format=layout)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs


class PatchEmbed(nn.Module):
    """Image (B, 3, H, W) -> tokens of its patches (B, H/size, W/size, C), sizes rounded up."""

    def __init__(self, size: int, in_channels: int, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.size = size
        self.proj = nn.Conv2d(in_channels, channels, kernel_size=size, stride=size)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        below, right = (-side % self.size for side in x.shape[-2:])
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.norm(self.proj(x).permute(0, 2, 3, 1).contiguous())


class PatchMerging(nn.Module):
    """Tokens (B, H, W, C) -> (B, H/2, W/2, 2C), sizes rounded up: one of each 2 x 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # The published weights expect the four column by column.
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.flatten(3)))


class Stage(nn.Module):
    """Blocks whose windows lie by turns on the map's grid and half a window beside it."""

    def __init__(
        self, channels: int, drop_paths: Sequence[float], *, downsample: bool, **options: Any
    ) -> None:
        super().__init__()
        self.window_size = options["window_size"]
        self.grad_checkpointing = False
        self.blocks = nn.ModuleList(Block(channels, drop_path=p, **options) for p in drop_paths)
        self.downsample = PatchMerging(channels) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same, before the downsampling."""
        size = self.window_size
        shifts = (0, size // 2)
        windows = [Windows.of(*x.shape[1:3], size, shift, x.device) for shift in shifts]
        for i, block in enumerate(self.blocks):
            inputs = x, windows[i % 2]
            x = checkpointed(block, *inputs) if self.grad_checkpointing else block(*inputs)
        return x


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
