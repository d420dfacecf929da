"""Names of the weights of `transformers`' Mask2FormerForUniversalSegmentation."""

from mask_former.backbone.swin_block import relative_position_index
from mask_former.checkpoint.hugging_face.backbones import ENCODER, RESNET, swin
from mask_former.checkpoint.hugging_face.layout import Layout, joined
from mask_former.checkpoint.names import Pair, Weights, moved

# Here both project queries, keys and values by one weight.
JOINT_IN_BOTH = ".transformer_cross_attention_layers."

SWIN = f"{ENCODER}swin."  # within a model; its files leave "swin." out, but for the last norm
_SWIN_BLOCK = f"{SWIN}encoder.layers.{{i}}.blocks.{{j}}."
_OUR_SWIN_BLOCK = "backbone.layers.{i}.blocks.{j}."
_DECODER = "model.pixel_level_module.decoder."
_OUR_DECODER = "sem_seg_head.pixel_decoder."
_ENCODER_LAYER = f"{_DECODER}encoder.layers.{{i}}."
_OUR_ENCODER_LAYER = f"{_OUR_DECODER}transformer.encoder.layers.{{i}}."
_TRANSFORMER = "model.transformer_module."
_LAYER = f"{_TRANSFORMER}decoder.layers.{{i}}."
_PREDICTOR = "sem_seg_head.predictor."
_CROSS = f"{_PREDICTOR}transformer_cross_attention_layers.{{i}}."
_SELF = f"{_PREDICTOR}transformer_self_attention_layers.{{i}}."
_FFN = f"{_PREDICTOR}transformer_ffn_layers.{{i}}."

_TABLE, _INDEX = "attn.relative_position_bias_table", "attn.relative_position_index"

PAIRS: tuple[Pair, ...] = (
    (None, f"{_OUR_SWIN_BLOCK}{_INDEX}"),  # see `_with_position_indices`
    *swin(ENCODER),
    *((f"{ENCODER}hidden_states_norms.stage{i + 1}.*", f"backbone.norm{i}.*") for i in range(4)),
    *RESNET,
    # Pixel decoder
    (f"{_DECODER}input_projections.{{i}}.{{j}}.*", f"{_OUR_DECODER}input_proj.{{i}}.{{j}}.*"),
    (f"{_DECODER}level_*", f"{_OUR_DECODER}transformer.level_*"),
    *moved(
        f"{_ENCODER_LAYER}self_attn.",
        f"{_OUR_ENCODER_LAYER}self_attn.",
        *("sampling_offsets.*", "attention_weights.*", "value_proj.*", "output_proj.*"),
    ),
    (f"{_ENCODER_LAYER}self_attn_layer_norm.*", f"{_OUR_ENCODER_LAYER}norm1.*"),
    (f"{_ENCODER_LAYER}fc1.*", f"{_OUR_ENCODER_LAYER}linear1.*"),
    (f"{_ENCODER_LAYER}fc2.*", f"{_OUR_ENCODER_LAYER}linear2.*"),
    (f"{_ENCODER_LAYER}final_layer_norm.*", f"{_OUR_ENCODER_LAYER}norm2.*"),
    *(
        pair
        for name in ("adapter", "layer")
        for pair in (
            (f"{_DECODER}{name}_{{i}}.0.*", f"{_OUR_DECODER}{name}_{{i}}.*"),
            (f"{_DECODER}{name}_{{i}}.1.*", f"{_OUR_DECODER}{name}_{{i}}.norm.*"),
        )
    ),
    (f"{_DECODER}mask_projection.*", f"{_OUR_DECODER}mask_features.*"),
    # Predictor
    (f"{_TRANSFORMER}queries_features.*", f"{_PREDICTOR}query_feat.*"),
    (f"{_TRANSFORMER}queries_embedder.*", f"{_PREDICTOR}query_embed.*"),
    (f"{_TRANSFORMER}level_embed.*", f"{_PREDICTOR}level_embed.*"),
    (f"{_TRANSFORMER}input_projections.{{i}}.*", f"{_PREDICTOR}input_proj.{{i}}.*"),
    (f"{_LAYER}cross_attn.in_proj_*", f"{_CROSS}multihead_attn.in_proj_*"),
    (f"{_LAYER}cross_attn.out_proj.*", f"{_CROSS}multihead_attn.out_proj.*"),
    (f"{_LAYER}cross_attn_layer_norm.*", f"{_CROSS}norm.*"),
    *joined(f"{_LAYER}self_attn.", "_proj.*", f"{_SELF}self_attn.in_proj_*"),
    (f"{_LAYER}self_attn.out_proj.*", f"{_SELF}self_attn.out_proj.*"),
    (f"{_LAYER}self_attn_layer_norm.*", f"{_SELF}norm.*"),
    (f"{_LAYER}fc1.*", f"{_FFN}linear1.*"),
    (f"{_LAYER}fc2.*", f"{_FFN}linear2.*"),
    (f"{_LAYER}final_layer_norm.*", f"{_FFN}norm.*"),
    (f"{_TRANSFORMER}decoder.layernorm.*", f"{_PREDICTOR}decoder_norm.*"),
    (
        f"{_TRANSFORMER}decoder.mask_predictor.mask_embedder.{{i}}.0.*",
        f"{_PREDICTOR}mask_embed.layers.{{i}}.*",
    ),
    ("class_predictor.*", f"{_PREDICTOR}class_embed.*"),
    # Made of the configuration, there and here.
    ("criterion.empty_weight", None),
    # Names within a model of transformers 5; its files keep those above.
    *joined(f"{_SWIN_BLOCK}attention.", "_proj.*", f"{_OUR_SWIN_BLOCK}attn.qkv.*"),
    (f"{_SWIN_BLOCK}attention.o_proj.*", f"{_OUR_SWIN_BLOCK}attn.proj.*"),
    (
        f"{_SWIN_BLOCK}attention.relative_position_bias.relative_*",
        f"{_OUR_SWIN_BLOCK}attn.relative_*",
    ),
    *moved(_SWIN_BLOCK, _OUR_SWIN_BLOCK, "mlp.fc1.*", "mlp.fc2.*"),
    *swin(SWIN),
)


def _with_position_indices(weights: Weights) -> Weights:
    """Add what our Swin Transformer keeps and theirs makes anew: which offset two tokens have."""
    weights = dict(weights)
    for name in [name for name in weights if name.endswith(_TABLE)]:
        window_size = (int(len(weights[name]) ** 0.5) + 1) // 2
        weights[name.replace(_TABLE, _INDEX)] = relative_position_index(window_size)
    return weights


MASK2FORMER = Layout(
    "model.transformer_module.queries_features.weight",
    "sem_seg_head.predictor.query_feat.weight",
    PAIRS,
    swin=SWIN,
    complete=_with_position_indices,
)
