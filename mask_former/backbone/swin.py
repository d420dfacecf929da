"""Swin Transformer as a backbone: Detectron2's, under the published name and keys."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor


@BACKBONE_REGISTRY.register()
class D2SwinTransformer(SwinTransformer):
    """Detectron2's Swin Transformer with the output names res2 ... res5.

    Args:
        out_features: names of the stages to return, of res2, res3, res4, res5.
        options: see `detectron2.modeling.backbone.swin.SwinTransformer`.

    Raises:
        ValueError: a name in `out_features` is no stage.
    """

    @configurable
    def __init__(self, *, out_features: list[str], **options: Any) -> None:
        stages = [f"res{i + 2}" for i in range(len(options["depths"]))]
        if unknown := set(out_features) - set(stages):
            raise ValueError(
                f"MODEL.SWIN.OUT_FEATURES names {sorted(unknown)}; the stages are {stages}"
            )
        # Every stage has its norm, whether it is returned or not: the published weights do.
        super().__init__(out_indices=range(len(stages)), **options)
        self._names = {f"p{i}": name for i, name in enumerate(stages) if name in out_features}

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
        # Detectron2's reads an attribute that it never sets.
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        shapes = {
            f"p{i}": ShapeSpec(channels=channels, stride=4 * 2**i)
            for i, channels in enumerate(self.num_features)
        }
        return {name: shapes[p] for p, name in self._names.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/stride, W/stride)}, sizes rounded up."""
        outputs = super().forward(x)
        return {name: outputs[p] for p, name in self._names.items()}
