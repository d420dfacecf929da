"""Names of the weights of EoMT's published files, whose encoder is timm's DINOv2 as here."""

from mask_former.checkpoint.names import VIT_BLOCK, Pair, Weights, moved, translate
from mask_former.errors import UserError

_ENCODER = "network.encoder.backbone."
_OUR_ENCODER = "backbone.model."
_BLOCK = "blocks.{i}."
_PIXEL_DECODER = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
# DINOv3's encoder is one of `transformers` there.
_DINOV3_KEY = f"{_ENCODER}patch_embed.cls_token"

PAIRS: tuple[Pair, ...] = (
    *moved(_ENCODER, _OUR_ENCODER, "cls_token", "reg_token", "pos_embed"),
    *moved(_ENCODER, _OUR_ENCODER, "patch_embed.proj.*", "norm.*"),
    *moved(f"{_ENCODER}{_BLOCK}", f"{_OUR_ENCODER}{_BLOCK}", *VIT_BLOCK, "ls{k}.*"),
    *moved("network.upscale.{i}.", f"{_PIXEL_DECODER}{{i}}.", "conv{k}.*", "norm.*"),
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
