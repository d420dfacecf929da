"""Names of Segmenter's published weights: an encoder, which is a ViT, and a decoder."""

from mask_former.checkpoint.names import Pair, Weights, translate

_PREDICTOR = "sem_seg_head.predictor"
_LAYERS = f"{_PREDICTOR}.transformer.layers"

SEGMENTER: tuple[Pair, ...] = (
    # The encoder's classifiers of ImageNet; a distilled one has two.
    ("encoder.head.*", None),
    ("encoder.head_dist.*", None),
    ("encoder.*", "backbone.model.*"),
    ("encoder.patch_embed.proj.*", "backbone.model.patch_embed.proj.*"),
    ("encoder.blocks.{i}.norm{k}.*", "backbone.model.blocks.{i}.norm{k}.*"),
    ("encoder.blocks.{i}.attn.qkv.*", "backbone.model.blocks.{i}.attn.qkv.*"),
    ("encoder.blocks.{i}.attn.proj.*", "backbone.model.blocks.{i}.attn.proj.*"),
    ("encoder.blocks.{i}.mlp.fc{k}.*", "backbone.model.blocks.{i}.mlp.fc{k}.*"),
    ("encoder.norm.*", "backbone.model.norm.*"),
    # The linear decoder.
    ("decoder.head.*", f"{_PREDICTOR}.head.*"),
    # The mask transformer.
    ("decoder.proj_dec.*", f"{_PREDICTOR}.proj_dec.*"),
    ("decoder.*", f"{_PREDICTOR}.*"),
    ("decoder.blocks.{i}.norm{k}.*", f"{_LAYERS}.{{i}}.norm{{k}}.*"),
    ("decoder.blocks.{i}.attn.qkv.weight", f"{_LAYERS}.{{i}}.self_attn.in_proj_weight"),
    ("decoder.blocks.{i}.attn.qkv.bias", f"{_LAYERS}.{{i}}.self_attn.in_proj_bias"),
    ("decoder.blocks.{i}.attn.proj.*", f"{_LAYERS}.{{i}}.self_attn.out_proj.*"),
    ("decoder.blocks.{i}.mlp.fc{k}.*", f"{_LAYERS}.{{i}}.linear{{k}}.*"),
    ("decoder.decoder_norm.*", f"{_PREDICTOR}.transformer.norm.*"),
    ("decoder.mask_norm.*", f"{_PREDICTOR}.mask_norm.*"),
)


def from_segmenter(weights: Weights) -> tuple[Weights, list[str]]:
    """Our weights of those of a published Segmenter; and its names of what is left out.

    Raises:
        UserError: a weight has no counterpart.
    """
    return translate(weights, SEGMENTER)
