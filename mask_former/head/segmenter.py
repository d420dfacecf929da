"""Segmenter (Strudel et al., ICCV 2021, arXiv:2105.05633): the tokens of a plain ViT, classified.

Its mask transformer adds one token for each class to those of the patches. What comes out of them
is compared, patch with class: a mask for each class. The result is the logits of the classes at
every patch; there is no matching and no class for "no object".

Shapes: `K` classes, `h w` patches, `N = h * w`, `C` channels of a token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from mask_former.backbone.vit import Tokens
from mask_former.errors import UserError, check_choice
from mask_former.head.per_pixel import PerPixelHead
from mask_former.layers import TransformerEncoder, TransformerOptions, flatten_map

SEGMENTER_DECODER_REGISTRY = Registry("SEGMENTER_DECODER")
SEGMENTER_DECODER_REGISTRY.__doc__ = """
Segmenter's decoders: called with cfg and the channels of a token, they make a module from the
patches' tokens, (B, C, h, w), to the logits of the classes, (B, K, h, w).
"""

_HEAD_CHANNELS = 64


@SEGMENTER_DECODER_REGISTRY.register()
class LinearDecoder(nn.Module):
    """The class of each patch, linear in its token (section 3.2).

    Args:
        dim: C.
        num_classes: K.
    """

    @configurable
    def __init__(self, *, dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)
        self.apply(_initialize)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict[str, Any]:
        return {"dim": dim, "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}

    def forward(self, patches: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, K, h, w)."""
        return self.head(patches.movedim(1, -1)).movedim(-1, 1)


@SEGMENTER_DECODER_REGISTRY.register()
class MaskTransformer(nn.Module):
    """A transformer of patches and classes, whose products are the masks (section 3.2, figure 2).

    Args:
        dim: C, of the patches and inside; a multiple of 64, the channels of an attention head.
        num_classes: K.
        num_layers: of the transformer.
        dropout: probability, of attention weights and at the end of each residual branch.
    """

    @configurable
    def __init__(
        self, *, dim: int, num_classes: int, num_layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.proj_dec = nn.Linear(dim, dim)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, dim))
        options = TransformerOptions(
            num_heads=max(1, dim // _HEAD_CHANNELS),
            dim_feedforward=4 * dim,
            dropout=dropout,
            pre_norm=True,
            activation=F.gelu,
        )
        self.transformer = TransformerEncoder(dim, num_layers, options)
        self.proj_patch = nn.Parameter(torch.empty(dim, dim))
        self.proj_classes = nn.Parameter(torch.empty(dim, dim))
        self.mask_norm = nn.LayerNorm(num_classes)
        self.apply(_initialize)
        trunc_normal_(self.cls_emb, std=0.02)
        for projection in (self.proj_patch, self.proj_classes):
            nn.init.normal_(projection, std=dim**-0.5)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict[str, Any]:
        return {
            "dim": dim,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_layers": cfg.MODEL.SEGMENTER.DEC_LAYERS,
            "dropout": cfg.MODEL.SEGMENTER.DROPOUT,
        }

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are embeddings."""
        return {"cls_emb"}

    def forward(self, patches: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, K, h, w)."""
        # A copy: PyTorch's FlopCounterMode fails on modules that are given views of parameters.
        classes = self.cls_emb.repeat(len(patches), 1, 1)
        x = self.transformer(torch.cat((self.proj_dec(flatten_map(patches)), classes), 1))
        pixels = F.normalize(x[:, : -self.num_classes] @ self.proj_patch, dim=-1)
        classes = F.normalize(x[:, -self.num_classes :] @ self.proj_classes, dim=-1)
        masks = self.mask_norm(pixels @ classes.transpose(1, 2))  # (B, N, K)
        return masks.transpose(1, 2).unflatten(2, patches.shape[-2:])


def _initialize(module: nn.Module) -> None:
    """As ViT's blocks are."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif hasattr(module, "in_proj_weight"):
        trunc_normal_(module.in_proj_weight, std=0.02)


@SEM_SEG_HEADS_REGISTRY.register()
class SegmenterHead(PerPixelHead):
    """Segmenter's decoder on the tokens of `ViTEncoder`, with cross entropy at the image's pixels.

    Args:
        predictor: the patches' tokens -> logits; see `SEGMENTER_DECODER_REGISTRY`.
        patch_size: side of the patches in pixels.
        options: of `PerPixelHead`.
    """

    @configurable
    def __init__(self, *, predictor: nn.Module, patch_size: int, **options: Any) -> None:
        super().__init__(common_stride=patch_size, **options)
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Raises UserError if the backbone has no tokens, or there is no such decoder."""
        if "tokens" not in input_shape:
            raise UserError(
                "SegmenterHead classifies the tokens of a plain ViT, but MODEL.BACKBONE.NAME "
                f"{cfg.MODEL.BACKBONE.NAME} makes the maps {', '.join(input_shape)}; set it to "
                "ViTEncoder."
            )
        name = cfg.MODEL.SEGMENTER.DECODER_NAME
        check_choice("MODEL.SEGMENTER.DECODER_NAME", name, dict(SEGMENTER_DECODER_REGISTRY))
        tokens = input_shape["tokens"]
        return {
            "predictor": SEGMENTER_DECODER_REGISTRY.get(name)(cfg, tokens.channels),
            "patch_size": tokens.stride,
            **cls.loss_options(cfg),
        }

    def classify(self, features: Tokens) -> Tensor:
        """The tokens -> logits of the only layer, (1, B, K, h, w)."""
        return self.predictor(features.patches)[None]
