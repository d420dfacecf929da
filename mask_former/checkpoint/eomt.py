"""Names of the weights of EoMT's published files, whose encoder is timm's DINOv2 as here."""

from mask_former.checkpoint.names import Pair, Weights, translate
from mask_former.errors import UserError

_ENCODER = "network.encoder.backbone."
_OUR_ENCODER = "backbone.model."
_PIXEL_DECODER = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
# DINOv3's encoder is one of `transformers` there.
_DINOV3_KEY = f"{_ENCODER}patch_embed.cls_token"

PAIRS: tuple[Pair, ...] = (
    *(
        (f"{_ENCODER}{name}", f"{_OUR_ENCODER}{name}")
        for name in (
            *("cls_token", "reg_token", "pos_embed", "patch_embed.proj.*"),
            *("blocks.{i}.norm1.*", "blocks.{i}.attn.qkv.*", "blocks.{i}.attn.proj.*"),
            *("blocks.{i}.ls1.*", "blocks.{i}.norm2.*", "blocks.{i}.mlp.fc1.*"),
            *("blocks.{i}.mlp.fc2.*", "blocks.{i}.ls2.*", "norm.*"),
        )
    ),
    *((f"network.upscale.{{i}}.{x}.*", f"{_PIXEL_DECODER}{{i}}.{x}.*") for x in ("conv1", "conv2")),
    ("network.upscale.{i}.norm.*", f"{_PIXEL_DECODER}{{i}}.norm.*"),
    ("network.q.*", f"{_PREDICTOR}query_feat.*"),
    ("network.class_head.*", f"{_PREDICTOR}class_embed.*"),
    *((f"network.mask_head.{2 * i}.*", f"{_PREDICTOR}mask_embed.layers.{i}.*") for i in range(3)),
    ("network.attn_mask_probs", f"{_PREDICTOR}attn_mask_probs"),
    # Ours are those of the configuration.
    ("network.encoder.pixel_*", None),
    ("criterion.empty_weight", None),
)


def from_eomt(weights: Weights) -> tuple[Weights, list[str]]:
    """The weights of a published file as ours; and its names of what is left out.

    Raises:
        UserError: they are differences to the weights of DINOv3; a weight has no counterpart.
    """
    if _DINOV3_KEY in weights:
        raise UserError(
            "EoMT's files of models on DINOv3 hold what was added to the weights of DINOv3, which "
            "are not in them, and have a licence of their own. Take a file of a model on DINOv2"
        )
    return translate(weights, PAIRS)
