"""Weights of `transformers`' MaskFormerForInstanceSegmentation, with a ResNet or a Swin
Transformer, and of their Mask2Former and EoMT: to our names and back."""

import re

import torch

from mask_former.checkpoint.hugging_face import eomt, mask2former
from mask_former.checkpoint.hugging_face.backbones import ENCODER, RESNET, swin
from mask_former.checkpoint.hugging_face.layout import Layout, joined
from mask_former.checkpoint.names import (
    COUNTER,
    Pair,
    Weights,
    reverse,
    translate,
    without_counters,
)
from mask_former.errors import UserError

_SWIN = f"{ENCODER}model."
_FPN = "model.pixel_level_module.decoder."
_OUR_FPN = "sem_seg_head.pixel_decoder."
_TRANSFORMER = "model.transformer_module."
_LAYER = f"{_TRANSFORMER}decoder.layers.{{i}}."
_PREDICTOR = "sem_seg_head.predictor."
_OUR_LAYER = f"{_PREDICTOR}transformer.decoder.layers.{{i}}."


def _attention(theirs: str, ours: str) -> tuple[Pair, ...]:
    return (
        *joined(f"{_LAYER}{theirs}.", "_proj.*", f"{_OUR_LAYER}{ours}.in_proj_*"),
        (f"{_LAYER}{theirs}.out_proj.*", f"{_OUR_LAYER}{ours}.out_proj.*"),
    )


PAIRS: tuple[Pair, ...] = (
    *swin(_SWIN),
    (f"{ENCODER}hidden_states_norms.{{i}}.*", "backbone.norm{i}.*"),
    *RESNET,
    # Pixel decoder: their layers count from coarse to fine, ours from fine to coarse.
    (f"{_FPN}fpn.stem.0.*", f"{_OUR_FPN}layer_4.*"),
    (f"{_FPN}fpn.stem.1.*", f"{_OUR_FPN}layer_4.norm.*"),
    *(
        (f"{_FPN}fpn.layers.{3 - k}.{theirs}.*", f"{_OUR_FPN}{ours}.*")
        for k in (3, 2, 1)
        for theirs, ours in (
            ("proj.0", f"adapter_{k}"),
            ("proj.1", f"adapter_{k}.norm"),
            ("block.0", f"layer_{k}"),
            ("block.1", f"layer_{k}.norm"),
        )
    ),
    (f"{_FPN}mask_projection.*", f"{_OUR_FPN}mask_features.*"),
    # Predictor
    (f"{_TRANSFORMER}queries_embedder.*", f"{_PREDICTOR}query_embed.*"),
    (f"{_TRANSFORMER}input_projection.*", f"{_PREDICTOR}input_proj.*"),
    *_attention("self_attn", "self_attn"),
    *_attention("encoder_attn", "multihead_attn"),
    (f"{_LAYER}fc1.*", f"{_OUR_LAYER}linear1.*"),
    (f"{_LAYER}fc2.*", f"{_OUR_LAYER}linear2.*"),
    (f"{_LAYER}self_attn_layer_norm.*", f"{_OUR_LAYER}norm1.*"),
    (f"{_LAYER}encoder_attn_layer_norm.*", f"{_OUR_LAYER}norm2.*"),
    (f"{_LAYER}final_layer_norm.*", f"{_OUR_LAYER}norm3.*"),
    (f"{_TRANSFORMER}decoder.layernorm.*", f"{_PREDICTOR}transformer.decoder.norm.*"),
    ("class_predictor.*", f"{_PREDICTOR}class_embed.*"),
    ("mask_embedder.{i}.0.*", f"{_PREDICTOR}mask_embed.layers.{{i}}.*"),
    # Made of the configuration, there and here.
    ("criterion.empty_weight", None),
    # Names within a model of transformers 5; its files keep those above.
    (f"{_LAYER}self_attn.o_proj.*", f"{_OUR_LAYER}self_attn.out_proj.*"),
    (f"{_LAYER}encoder_attn.o_proj.*", f"{_OUR_LAYER}multihead_attn.out_proj.*"),
    (f"{_LAYER}mlp.fc1.*", f"{_OUR_LAYER}linear1.*"),
    (f"{_LAYER}mlp.fc2.*", f"{_OUR_LAYER}linear2.*"),
)


MASK_FORMER = Layout(
    f"{_TRANSFORMER}queries_embedder.weight", f"{_PREDICTOR}query_embed.weight", PAIRS, swin=_SWIN
)
# The first whose key is there is the layout of a file.
LAYOUTS = (eomt.DINOV2, eomt.DINOV3, mask2former.MASK2FORMER, MASK_FORMER)


def from_hugging_face(weights: Weights) -> tuple[Weights, list[str]]:
    """The weights of a model of `transformers`, one of `LAYOUTS`, as ours.

    A batch norm that has seen no batch was frozen. Then its counters are left out, since a
    `FrozenBatchNorm2d` has none.

    Returns:
        our weights; and their names of what is left out.

    Raises:
        UserError: a weight has no counterpart; the projection of queries, keys or values lacks
            one of the others.
    """
    rest, counters = without_counters(weights)
    if any(weights[name].any() for name in counters):
        rest, counters = weights, []
    layout = next((x for x in LAYOUTS if x.their_key in weights), MASK_FORMER)
    renamed, left_out = translate(layout.prepare(rest), layout.pairs)
    return layout.complete(_merged(renamed)), left_out + counters


def to_hugging_face(weights: Weights, *, no_object_weight: float) -> Weights:
    """Ours as the weights of a model of `transformers`, one of `LAYOUTS`.

    Args:
        weights: of a model whose configuration `config_to_hugging_face` accepts.
        no_object_weight: that configuration's; `transformers` keeps it among the weights.

    Raises:
        UserError: a weight has no counterpart.
    """
    layout = next((x for x in LAYOUTS if x.our_key in weights), MASK_FORMER)
    renamed, _ = translate(_split(weights), reverse(layout.pairs))
    renamed = layout.restore(renamed)
    for name in [name for name in renamed if name.endswith(".running_var")]:
        renamed.setdefault(name.replace(".running_var", COUNTER), torch.tensor(0))
    last_norm = weights.get("backbone.norm3.weight")
    if last_norm is not None:
        renamed[f"{layout.swin}layernorm.weight"] = torch.ones_like(last_norm)
        renamed[f"{layout.swin}layernorm.bias"] = torch.zeros_like(last_norm)
    class_weights = torch.ones_like(renamed["class_predictor.bias"])
    class_weights[-1] = no_object_weight
    renamed["criterion.empty_weight"] = class_weights
    return renamed


def _merged(weights: Weights) -> Weights:
    """Join `name[0]`, `name[1]`, `name[2]` to `name`."""
    merged: Weights = {}
    for name, tensor in weights.items():
        whole, part, _ = name.partition("[")
        if not part:
            merged[name] = tensor
        elif whole not in merged:
            names = [f"{whole}[{i}]" for i in range(3)]
            if missing := [part for part in names if part not in weights]:
                raise UserError(f"parts of a projection are missing: {missing}")
            merged[whole] = torch.cat([weights[part] for part in names])
    return merged


def _split(weights: Weights) -> Weights:
    """Split the joint projections of queries, keys and values into three, where theirs are."""
    split: Weights = {}
    for name, tensor in weights.items():
        if re.search(r"\.(in_proj_|qkv\.)\w+$", name) and mask2former.JOINT_IN_BOTH not in name:
            # Copies: safetensors writes no tensors that share memory.
            parts = (part.clone() for part in tensor.chunk(3))
            split.update({f"{name}[{i}]": part for i, part in enumerate(parts)})
        else:
            split[name] = tensor
    return split
