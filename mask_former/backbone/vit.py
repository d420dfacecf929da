"""Plain Vision Transformers (arXiv:2010.11929) of timm: ViT, DeiT, DINOv2, DINOv3.

Shapes: `B` images, `h w` patches, `P` prefix tokens (class token, registers), `Q` tokens that
others put in front, `T = Q + P + h * w` tokens in all, `C` channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from mask_former.backbone.checkpointing import checkpointed
from mask_former.backbone.timm_models import (
    check_pixel_statistics,
    create_timm_model,
    scales,
    weights_as_timm_reads_them,
)
from mask_former.errors import UserError, check_choice

KEY = "MODEL.VIT.NAME"
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Tokens:
    """Tokens between two blocks.

    Attributes:
        values: (B, T, C); of patches row by row, behind all others.
        grid: h and w.
        rotations: of the rotary positions, sines and cosines side by side, for all tokens but the
            first P, (T - P, 2 * channels of a head); None: the model has none.
    """

    values: Tensor
    grid: tuple[int, int]
    rotations: Tensor | None

    @property
    def patches(self) -> Tensor:
        """The patches' tokens as a map, (B, C, h, w)."""
        height, width = self.grid
        patches = self.values[:, -height * width :]
        return patches.transpose(1, 2).unflatten(2, (height, width))

    def behind(self, queries: Tensor) -> "Tokens":
        """These tokens with (B, Q, C) in front, which have no position."""
        rotations = self.rotations
        if rotations is not None:
            unturned = rotations.new_zeros(queries.shape[1], 2, rotations.shape[1] // 2)
            unturned[:, 1] = 1  # cosines
            rotations = torch.cat((unturned.flatten(1), rotations))
        values = torch.cat((queries, self.values), 1)
        return replace(self, values=values, rotations=rotations)


@BACKBONE_REGISTRY.register()
class ViTEncoder(Backbone):
    """A plain ViT of timm, as an encoder of patches that heads can also run block by block.

    Images may have any size: they are padded with zeros below and on the right to whole patches,
    and learned positions are interpolated.

    Args:
        name: of the model, see `timm.list_models("vit_*")`; may have the tag of its weights.
        pretrained: start from the weights that timm names, which it downloads into its cache.
        in_chans: channels of the images.
        img_size: height and width, in pixels, that the learned positions are for; 0: the model's
            own. Those of pretrained weights are interpolated to it once, when they are loaded.
        patch_size: side of the patches in pixels; 0: the model's own.
        drop_path_rate: probability with which the last block's residual branches are left out for
            an image in training; it grows from 0 with the depth.
        norm_eps: epsilon of all layer norms; 0: the model's own.
        interpolation: of positions, when an image has another size: bicubic, with antialiasing, or
            bilinear, without, which is Segmenter's.

    Raises:
        UserError: see `create_timm_model`; the model is no plain ViT; unknown `interpolation`.
    """

    pretrained_part = "model."  # what a file of weights must hold

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: bool = False,
        in_chans: int = 3,
        img_size: int = 0,
        patch_size: int = 0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 0.0,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        check_choice("MODEL.VIT.INTERPOLATION", interpolation, INTERPOLATIONS)
        options: dict[str, Any] = {"img_size": img_size, "patch_size": patch_size}
        options = {key: value for key, value in options.items() if value}
        refusal = f"{KEY}: {name} is no plain ViT; timm's are vit_*, deit_* and deit3_*."
        try:
            self.model = create_timm_model(
                name,
                KEY,
                pretrained=pretrained,
                in_chans=in_chans,
                dynamic_img_size=True,
                drop_path_rate=drop_path_rate,
                **options,
            )
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
            raise UserError(refusal) from error
        parts = ("patch_embed", "pos_embed", "norm_pre", "blocks", "norm", "num_prefix_tokens")
        if not all(hasattr(self.model, part) for part in parts) or getattr(
            self.model, "rope_mixed", False
        ):
            raise UserError(refusal)
        if hasattr(self.model.patch_embed, "backbone"):  # a hybrid: patches of a ResNet's map
            raise UserError(f"{refusal} Its patches are not of the image, but of convolutions.")
        for part in ("attn_pool", "fc_norm"):  # of a classifier; would be without gradients
            setattr(self.model, part, nn.Identity())
        for module in self.model.modules():
            if norm_eps and isinstance(module, nn.LayerNorm):
                module.eps = norm_eps
        self.patch_size = self.model.patch_embed.patch_size[0]
        self.channels = self.model.embed_dim
        self.depth = len(self.model.blocks)
        self.num_prefix_tokens = self.model.num_prefix_tokens
        self.interpolation = interpolation
        self._recomputes = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.MODEL.VIT
        check_pixel_statistics(cfg, keys.NAME, KEY, pretrained=keys.PRETRAINED)
        return {
            "name": keys.NAME,
            # Weights of a file replace them, so that they need not be there.
            "pretrained": keys.PRETRAINED and not cfg.MODEL.WEIGHTS,
            "in_chans": input_shape.channels,
            "img_size": keys.IMG_SIZE,
            "patch_size": keys.PATCH_SIZE,
            "drop_path_rate": keys.DROP_PATH_RATE,
            "norm_eps": keys.NORM_EPS,
            "interpolation": keys.INTERPOLATION,
        }

    @property
    def size_divisibility(self) -> int:
        return self.patch_size

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"tokens": ShapeSpec(channels=self.channels, stride=self.patch_size)}

    def no_weight_decay(self) -> set[str]:
        """Names of layer scales; the model itself names its embeddings in the same way."""
        return scales(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of every block again for gradients, instead of keeping them."""
        self._recomputes = enable

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile every block, as `nn.Module.compile` would the whole: heads may run them one by
        one, and they are alike, so that what is compiled for one serves all."""
        for block in self.model.blocks:
            block.compile(*args, **kwargs)

    def convert_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a file of timm's or the model's authors, with positions for our `img_size`."""
        return weights_as_timm_reads_them(self.model, weights)

    def forward(self, images: Tensor) -> Tokens:
        """(B, 3, H, W) -> the normalized tokens behind the last block."""
        tokens = self.embed(images)
        for i in range(self.depth):
            tokens = self.run_block(i, tokens)
        return self.normalize(tokens)

    def embed(self, images: Tensor) -> Tokens:
        """(B, 3, H, W) -> the tokens before the first block."""
        below, right = (-side % self.patch_size for side in images.shape[-2:])
        x = self.model.patch_embed(F.pad(images, (0, right, 0, below)))
        grid = tuple(x.shape[1:3])
        x = x.flatten(1, 2)
        names = ("cls_token", "dist_token", "reg_token")
        prefix = [getattr(self.model, name, None) for name in names]
        prefix = [token.expand(len(x), -1, -1) for token in prefix if token is not None]
        positions = self._positions(grid)
        if positions is not None and self.model.no_embed_class:
            x = x + positions
        x = torch.cat((*prefix, x), 1)
        if positions is not None and not self.model.no_embed_class:
            x = x + positions
        rope = getattr(self.model, "rope", None)
        rotations = None if rope is None else rope.get_embed(shape=grid)
        return Tokens(self.model.norm_pre(self.model.pos_drop(x)), grid, rotations)

    def _positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Learned positions for h x w patches, those of prefix tokens in front, (1, N, C)."""
        positions = self.model.pos_embed
        learned = self.model.patch_embed.grid_size
        if positions is None or tuple(learned) == grid:
            return positions
        count = 0 if self.model.no_embed_class else self.num_prefix_tokens
        prefix, patches = positions[:, :count], positions[:, count:]
        patches = patches.transpose(1, 2).unflatten(2, learned)
        patches = F.interpolate(
            patches, size=grid, mode=self.interpolation, antialias=self.interpolation == "bicubic"
        )
        return torch.cat((prefix, patches.flatten(2).transpose(1, 2)), 1)

    def run_block(self, index: int, tokens: Tokens, mask: Tensor | None = None) -> Tokens:
        """The tokens behind a block.

        Args:
            mask: which token (row) may attend to which, bool, (B, 1, T, T); None: to all.
        """
        block = self.model.blocks[index]
        inputs = (tokens.values, mask)
        if tokens.rotations is not None:
            inputs = (tokens.values, tokens.rotations, mask)
        values = checkpointed(block, *inputs) if self._recomputes else block(*inputs)
        return replace(tokens, values=values)

    def normalize(self, tokens: Tokens) -> Tokens:
        """The tokens behind the model's last norm."""
        return replace(tokens, values=self.model.norm(tokens.values))
