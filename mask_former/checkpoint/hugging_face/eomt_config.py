"""Configurations of `transformers`' EoMT, on DINOv2 or DINOv3: to our keys and back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode

from mask_former.checkpoint.hugging_face.mapping import (
    Keys,
    Rows,
    coerced,
    from_ours,
    from_theirs,
    get,
    nested,
    require,
)
from mask_former.checkpoint.hugging_face.processor import input_keys, processor_config
from mask_former.checkpoint.names import Weights
from mask_former.errors import UserError

_KEYS: Rows = (
    ("image_size", "MODEL.VIT.IMG_SIZE", 640),
    ("patch_size", "MODEL.VIT.PATCH_SIZE", 16),
    ("num_blocks", "MODEL.EOMT.NUM_BLOCKS", 4),
    ("num_queries", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 200),
    ("no_object_weight", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", 0.1),
    ("class_weight", "MODEL.MASK_FORMER.CLASS_WEIGHT", 2.0),
    ("mask_weight", "MODEL.MASK_FORMER.MASK_WEIGHT", 5.0),
    ("dice_weight", "MODEL.MASK_FORMER.DICE_WEIGHT", 5.0),
    ("train_num_points", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 12544),
    ("oversample_ratio", "MODEL.MASK_FORMER.OVERSAMPLE_RATIO", 3.0),
    ("importance_sample_ratio", "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", 0.75),
)
_OURS = {
    "MODEL.META_ARCHITECTURE": "EoMT",
    "MODEL.BACKBONE.NAME": "ViTEncoder",
    "MODEL.SEM_SEG_HEAD.NAME": "EoMTHead",
    "MODEL.MASK_FORMER.MASK_LOSS": "bce",
    "MODEL.MASK_FORMER.TEST.VOID_BELOW_HALF": True,
    "MODEL.MASK_FORMER.TEST.TOP_OF_ALL_CLASSES": True,
    "INPUT.FORMAT": "RGB",
}
_THEIRS = {
    "num_channels": 3,
    "num_register_tokens": 4,
    "num_upscale_blocks": 2,
    "hidden_act": "gelu",
}


class _Encoder(NamedTuple):
    """A kind of plain ViT.

    Attributes:
        name: of their class.
        theirs: what their keys must be besides.
        norm_eps: of timm's layer norms.
        sizes: (channels, blocks, heads, hidden channels) -> timm's model.
    """

    name: str
    theirs: dict[str, Any]
    norm_eps: float
    sizes: dict[tuple[int, int, int, int], str]


_ENCODERS = {
    "eomt": _Encoder(
        "EomtForUniversalSegmentation",
        {"mlp_ratio": 4},
        1e-6,
        {
            (384, 12, 6, 1536): "vit_small_patch14_reg4_dinov2",
            (768, 12, 12, 3072): "vit_base_patch14_reg4_dinov2",
            (1024, 24, 16, 4096): "vit_large_patch14_reg4_dinov2",
            (1536, 40, 24, 6144): "vit_giant_patch14_reg4_dinov2",
        },
    ),
    "eomt_dinov3": _Encoder(
        "EomtDinov3ForUniversalSegmentation",
        {
            "query_bias": True,
            "key_bias": False,
            "value_bias": True,
            "proj_bias": True,
            "mlp_bias": True,
            "use_gated_mlp": False,
            "rope_parameters.rope_theta": 100.0,
        },
        1e-5,
        {
            (384, 12, 6, 1536): "vit_small_patch16_dinov3_qkvb",
            (768, 12, 12, 3072): "vit_base_patch16_dinov3_qkvb",
            (1024, 24, 16, 4096): "vit_large_patch16_dinov3_qkvb",
        },
    ),
}
TYPES = tuple(_ENCODERS)
_PROBABILITIES = "sem_seg_head.predictor.attn_mask_probs"
_GATED = "vit_giant_patch14_reg4_dinov2"


def config_from_eomt(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Keys:
    """Our keys for a model of `transformers`; see `config_from_hugging_face`."""
    encoder = _ENCODERS[config["model_type"]]
    require({**_THEIRS, **encoder.theirs}, config)
    channels = coerced("hidden_size", get(config, "hidden_size", 1024), 1024)
    size = (
        channels,
        get(config, "num_hidden_layers", 24),
        get(config, "num_attention_heads", 16),
        get(config, "intermediate_size", 4 * channels),
    )
    name = encoder.sizes.get(size)
    if name is None or (name == _GATED) != get(config, "use_swiglu_ffn", False):
        raise UserError(
            f"hidden_size, num_hidden_layers, num_attention_heads and intermediate_size are {size} "
            f"and use_swiglu_ffn is {get(config, 'use_swiglu_ffn', False)}; timm has ViTs of "
            f"{encoder.sizes}, with use_swiglu_ffn in the giant one only"
        )
    keys = {**_OURS, "MODEL.VIT.NAME": name, **from_theirs(_KEYS, config)}
    keys["MODEL.VIT.NORM_EPS"] = float(get(config, "layer_norm_eps", 1e-6))
    keys["MODEL.MASK_FORMER.SIZE_DIVISIBILITY"] = keys["MODEL.VIT.IMG_SIZE"]
    # Their published files are of models whose masks are annealed; see `masks_of_inference`.
    blocks = keys["MODEL.EOMT.NUM_BLOCKS"]
    keys["MODEL.EOMT.ANNEALING_START"] = [0] * blocks
    keys["MODEL.EOMT.ANNEALING_END"] = [1] * blocks
    keys |= input_keys(processor)
    if processor.get("do_split_image"):  # into windows, along the longer side
        require({"do_resize": True}, processor)
        keys["TEST.WINDOW.SIZE"] = keys.get("INPUT.MIN_SIZE_TEST", 0)
        require({"MODEL.VIT.IMG_SIZE": keys["TEST.WINDOW.SIZE"]}, nested(keys))
    return keys


def masks_of_inference(weights: Weights) -> Keys:
    """Our keys for the masks that weights, ours by name, have in inference there, where each block
    masks by its probability: with annealing ours has none, without it does the same as theirs."""
    if not weights[_PROBABILITIES].any():
        return {}
    return {"MODEL.EOMT.ANNEALING_START": [], "MODEL.EOMT.ANNEALING_END": []}


def as_in_inference(cfg: CfgNode, weights: Weights) -> Weights:
    """Our weights as theirs have to be to infer the same: without masks where they are annealed,
    at whatever iteration of the annealing the weights were saved."""
    if cfg.MODEL.META_ARCHITECTURE != "EoMT" or not cfg.MODEL.EOMT.ANNEALING_END:
        return weights
    return {**weights, _PROBABILITIES: torch.zeros_like(weights[_PROBABILITIES])}


def config_to_eomt(cfg: CfgNode, class_names: Sequence[str] | None) -> Keys:
    """The `config.json` of the model of `transformers` that equals ours."""
    require(_OURS, cfg)
    name = cfg.MODEL.VIT.NAME.partition(".")[0]
    sizes = {
        known: (kind, size) for kind, e in _ENCODERS.items() for size, known in e.sizes.items()
    }
    if name not in sizes:
        raise UserError(
            f"MODEL.VIT.NAME is {name!r}; `transformers` has EoMT on {', '.join(sizes)}"
        )
    kind, size = sizes[name]
    encoder = _ENCODERS[kind]
    flat = {**_THEIRS, **encoder.theirs, "model_type": kind, "architectures": [encoder.name]}
    flat |= from_ours(_KEYS, cfg, class_names)
    flat["hidden_size"], flat["num_hidden_layers"], flat["num_attention_heads"], hidden = size
    if kind == "eomt":
        flat["use_swiglu_ffn"] = name == _GATED
    else:
        flat["intermediate_size"] = hidden
    flat["layer_norm_eps"] = cfg.MODEL.VIT.NORM_EPS or encoder.norm_eps
    return nested(flat)


def processor_to_eomt(cfg: CfgNode) -> Keys:
    """The `preprocessor_config.json` of the model of `transformers` that equals ours.

    Raises:
        UserError: images are padded to another size than the encoder's; or windows that theirs has
            not: they have the size of the shorter side and of the encoder's images, and are spread
            evenly.
    """
    keys = {**processor_config(cfg, "EomtImageProcessor"), "do_pad": True, "do_split_image": False}
    size = cfg.TEST.WINDOW.SIZE
    if not size:
        require({"MODEL.MASK_FORMER.SIZE_DIVISIBILITY": cfg.MODEL.VIT.IMG_SIZE}, cfg)
    else:
        sides = {"MODEL.VIT.IMG_SIZE": size, "INPUT.MIN_SIZE_TEST": size}
        require({**sides, "TEST.WINDOW.STRIDE": 0}, cfg)
        # With a longest edge theirs scales the masks of each window to that.
        keys |= {"do_pad": False, "do_split_image": True, "size": {"shortest_edge": size}}
    return keys
