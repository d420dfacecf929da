"""Names of the weights of `transformers`' EomtForUniversalSegmentation, on DINOv2, and of their
EomtDinov3ForUniversalSegmentation."""

import torch

from mask_former.checkpoint.hugging_face.layout import Layout, joined
from mask_former.checkpoint.names import Pair, Weights, moved

_OURS = "backbone.model."
_LAYER = "layers.{i}."
_BLOCK = f"{_OURS}blocks.{{i}}."
_PIXEL_DECODER = "sem_seg_head.pixel_decoder.{i}."
_PREDICTOR = "sem_seg_head.predictor."
_POSITIONS, _OUR_POSITIONS = "embeddings.position_embeddings.weight", f"{_OURS}pos_embed"

_BOTH: tuple[Pair, ...] = (
    ("embeddings.cls_token", f"{_OURS}cls_token"),
    ("embeddings.register_tokens", f"{_OURS}reg_token"),
    *moved(_LAYER, _BLOCK, "norm1.*", "norm2.*"),
    *joined(f"{_LAYER}attention.", "_proj.weight", f"{_BLOCK}attn.qkv.weight"),
    ("layernorm.*", f"{_OURS}norm.*"),
    ("query.*", f"{_PREDICTOR}query_feat.*"),
    ("class_predictor.*", f"{_PREDICTOR}class_embed.*"),
    *((f"mask_head.fc{i + 1}.*", f"{_PREDICTOR}mask_embed.layers.{i}.*") for i in range(3)),
    *(
        (f"upscale_block.block.{{i}}.{theirs}.*", f"{_PIXEL_DECODER}{ours}.*")
        for theirs, ours in (("conv1", "conv1"), ("conv2", "conv2"), ("layernorm2d", "norm"))
    ),
    ("attn_mask_probs", f"{_PREDICTOR}attn_mask_probs"),
    # Made of the configuration, there and here.
    ("criterion.empty_weight", None),
)
_DINOV2: tuple[Pair, ...] = (
    (_POSITIONS, _OUR_POSITIONS),
    ("embeddings.patch_embeddings.projection.*", f"{_OURS}patch_embed.proj.*"),
    *joined(f"{_LAYER}attention.", "_proj.bias", f"{_BLOCK}attn.qkv.bias"),
    (f"{_LAYER}attention.out_proj.*", f"{_BLOCK}attn.proj.*"),
    *((f"{_LAYER}layer_scale{n}.lambda1", f"{_BLOCK}ls{n}.gamma") for n in (1, 2)),
    *moved(_LAYER, _BLOCK, "mlp.fc1.*", "mlp.fc2.*"),
)
_DINOV3: tuple[Pair, ...] = (
    ("embeddings.patch_embeddings.*", f"{_OURS}patch_embed.proj.*"),
    # Keys have none.
    *((f"{_LAYER}attention.{x}_proj.bias", f"{_BLOCK}attn.{x}_bias") for x in ("q", "v")),
    (f"{_LAYER}attention.o_proj.*", f"{_BLOCK}attn.proj.*"),
    *((f"{_LAYER}layer_scale{n}.lambda1", f"{_BLOCK}gamma_{n}") for n in (1, 2)),
    (f"{_LAYER}mlp.up_proj.*", f"{_BLOCK}mlp.fc1.*"),
    (f"{_LAYER}mlp.down_proj.*", f"{_BLOCK}mlp.fc2.*"),
)
_KINDS = ("weight", "bias")


def _with_joint_gates(weights: Weights) -> Weights:
    """One weight, fc1, for the gate and the values of a SwiGLU, as in timm's ViT-g."""
    weights = dict(weights)
    for name in [name for name in weights if name.endswith(".mlp.gate_proj.weight")]:
        mlp = name.removesuffix("gate_proj.weight")
        parts = [f"{mlp}{part}_proj.{k}" for k in _KINDS for part in ("gate", "up", "down")]
        if any(part not in weights for part in parts):
            continue  # and has no counterpart
        gate, up, down, *biases = (weights.pop(part) for part in parts)
        weights[f"{mlp}fc1.weight"], weights[f"{mlp}fc2.weight"] = torch.cat([gate, up]), down
        weights[f"{mlp}fc1.bias"], weights[f"{mlp}fc2.bias"] = torch.cat(biases[:2]), biases[2]
    return weights


def _with_own_gates(weights: Weights) -> Weights:
    """The way back: where fc1 has twice as many outputs as fc2 has inputs."""
    weights = dict(weights)
    for name in [name for name in weights if name.endswith(".mlp.fc1.weight")]:
        mlp = name.removesuffix("fc1.weight")
        if len(weights[name]) != 2 * weights[f"{mlp}fc2.weight"].shape[1]:
            continue
        for kind in _KINDS:
            gate, up = weights.pop(f"{mlp}fc1.{kind}").chunk(2)
            # Copies: safetensors writes no tensors that share memory.
            weights[f"{mlp}gate_proj.{kind}"] = gate.clone()
            weights[f"{mlp}up_proj.{kind}"] = up.clone()
            weights[f"{mlp}down_proj.{kind}"] = weights.pop(f"{mlp}fc2.{kind}")
    return weights


def _with_batch_axis(weights: Weights) -> Weights:
    positions = weights[_OUR_POSITIONS]
    return weights | {_OUR_POSITIONS: positions[None]}


def _restore(weights: Weights) -> Weights:
    positions = weights[_POSITIONS]
    return _with_own_gates(weights | {_POSITIONS: positions[0]})


# What a file of either has; the first has more besides.
_THEIR_KEY = "upscale_block.block.0.conv1.weight"
DINOV2 = Layout(
    _POSITIONS,
    f"{_OURS}blocks.0.ls1.gamma",
    _BOTH + _DINOV2,
    prepare=_with_joint_gates,
    complete=_with_batch_axis,
    restore=_restore,
)
DINOV3 = Layout(_THEIR_KEY, f"{_OURS}blocks.0.gamma_1", _BOTH + _DINOV3)
