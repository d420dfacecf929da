"""Names of Segmenter's published weights: an encoder, which is a ViT, and a decoder."""

from mask_former.checkpoint.names import VIT_BLOCK, Pair, Weights, moved, translate

_PREDICTOR = "sem_seg_head.predictor"
_LAYERS = f"{_PREDICTOR}.transformer.layers"

SEGMENTER: tuple[Pair, ...] = (
    # The encoder's classifiers of ImageNet; a distilled one has two.
    ("encoder.head.*", None),
    ("encoder.head_dist.*", None),
    *moved("encoder.", "backbone.model.", "*", "patch_embed.proj.*", "norm.*"),
    *moved("encoder.blocks.{i}.", "backbone.model.blocks.{i}.", *VIT_BLOCK),
    # The linear decoder has "head", all others are of the mask transformer.
    *moved("decoder.", f"{_PREDICTOR}.", "head.*", "*", "proj_dec.*", "mask_norm.*"),
    ("decoder.blocks.{i}.norm{k}.*", f"{_LAYERS}.{{i}}.norm{{k}}.*"),
    ("decoder.blocks.{i}.attn.qkv.weight", f"{_LAYERS}.{{i}}.self_attn.in_proj_weight"),
    ("decoder.blocks.{i}.attn.qkv.bias", f"{_LAYERS}.{{i}}.self_attn.in_proj_bias"),
    ("decoder.blocks.{i}.attn.proj.*", f"{_LAYERS}.{{i}}.self_attn.out_proj.*"),
    ("decoder.blocks.{i}.mlp.fc{k}.*", f"{_LAYERS}.{{i}}.linear{{k}}.*"),
    ("decoder.decoder_norm.*", f"{_PREDICTOR}.transformer.norm.*"),
)


def from_segmenter(weights: Weights) -> tuple[Weights, list[str]]:
    """Our weights of those of a published Segmenter; and its names of what is left out.

    Raises:
        UserError: a weight has no counterpart.
    """
    return translate(weights, SEGMENTER)
