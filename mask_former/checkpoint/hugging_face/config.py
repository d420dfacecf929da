"""Configurations of `transformers`' MaskFormer, Mask2Former and EoMT: to our keys and back.

Only keys that describe the model and its input. What one side cannot express is an error. How to
train is left out: the supervision of every layer (transformers 5.23 fails with it), and two of the
three dropout rates of their decoder, where we have one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from mask_former.checkpoint.hugging_face.eomt_config import TYPES as EOMT_TYPES
from mask_former.checkpoint.hugging_face.eomt_config import (
    config_from_eomt,
    config_to_eomt,
    processor_to_eomt,
)
from mask_former.checkpoint.hugging_face.keys import (
    MASK2FORMER,
    MASK_FORMER,
    OUR_RESNET,
    OUR_SWIN,
    RESNET,
    RESNET_DEPTHS,
    SWIN,
    THEIR_RESNET,
    THEIR_SWIN,
    Model,
)
from mask_former.checkpoint.hugging_face.mapping import (
    Keys,
    from_ours,
    from_theirs,
    get,
    nested,
    require,
)
from mask_former.checkpoint.hugging_face.processor import input_keys, processor_config
from mask_former.errors import UserError


def config_from_hugging_face(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None = None
) -> Keys:
    """Our keys for a model of `transformers`.

    Args:
        config: what their `config.json` holds.
        processor: what their `preprocessor_config.json` holds. By default images are normalised
            as for ImageNet.

    Returns:
        our key -> value, for all that the model depends on.

    Raises:
        UserError: it is a model that we have no counterpart of; names the key.
    """
    if config.get("model_type") in EOMT_TYPES:
        return config_from_eomt(config, processor or {})
    kind = get(config, "backbone_config.model_type", None)
    if kind not in ("swin", "maskformer-swin", "resnet"):
        raise UserError(
            f"backbone_config.model_type is {kind!r}; only models with a ResNet or a Swin "
            "Transformer can be converted"
        )
    is_swin = kind != "resnet"
    model = MASK2FORMER if config.get("model_type") == "mask2former" else MASK_FORMER
    require({**model.theirs, **(THEIR_SWIN if is_swin else THEIR_RESNET)}, config)
    return {
        **model.ours,
        **(OUR_SWIN if is_swin else OUR_RESNET | _resnet_keys(config)),
        **from_theirs(model.keys + (SWIN if is_swin else RESNET), config),
        **input_keys(processor or {}),
    }


def config_to_hugging_face(cfg: CfgNode, class_names: Sequence[str] | None = None) -> Keys:
    """The `config.json` of the model of `transformers` that equals ours.

    Args:
        class_names: by contiguous id; made up if they are not known.

    Raises:
        UserError: `transformers` has no such model; names the key.
    """
    if cfg.MODEL.META_ARCHITECTURE == "EoMT":
        return config_to_eomt(cfg, class_names)
    model = _model(cfg)
    require(model.ours, cfg)
    backbone = cfg.MODEL.BACKBONE.NAME
    is_swin = backbone == "D2SwinTransformer"
    require(OUR_SWIN if is_swin else OUR_RESNET, cfg)
    flat = {**model.theirs, **(THEIR_SWIN if is_swin else THEIR_RESNET)}
    flat |= from_ours(model.keys + (SWIN if is_swin else RESNET), cfg, class_names)
    if not is_swin:
        flat.update(_resnet_architecture(cfg))
    flat["backbone_config.model_type"] = model.swin if is_swin else "resnet"
    if model is MASK_FORMER:
        flat.update(_mask_former_keys(cfg, is_swin))
    else:  # They have one number of heads.
        key = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"
        require({key: cfg.MODEL.MASK_FORMER.NHEADS}, cfg)
    flat["backbone_config.out_features"] = [f"stage{i}" for i in range(1, 5)]
    flat["architectures"] = [model.name]
    return nested(flat)


def processor_to_hugging_face(cfg: CfgNode) -> Keys:
    """The `preprocessor_config.json` of the model of `transformers` that equals ours.

    Raises:
        UserError: theirs has no such windows; names the key.
    """
    if cfg.MODEL.META_ARCHITECTURE == "EoMT":
        return processor_to_eomt(cfg)
    require({"TEST.WINDOW.SIZE": 0}, cfg)  # theirs sees the whole image
    divisor = cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    return {
        **processor_config(cfg, _model(cfg).processor),
        "size_divisor": 32 if divisor < 0 else divisor,
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        "num_labels": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    }


def _model(cfg: CfgNode) -> Model:
    keys = cfg.MODEL.MASK_FORMER
    predictor = keys.TRANSFORMER_DECODER_NAME or keys.PREDICTOR_NAME
    return MASK2FORMER if predictor == "MultiScaleMaskedTransformerDecoder" else MASK_FORMER


def _mask_former_keys(cfg: CfgNode, is_swin: bool) -> Keys:
    keys = cfg.MODEL.MASK_FORMER
    first_width = cfg.MODEL.SWIN.EMBED_DIM if is_swin else cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    if 8 * first_width == keys.HIDDEN_DIM:  # They project res5 only where they must.
        require({"MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False}, cfg)
    return {
        "decoder_config.attention_dropout": keys.DROPOUT,
        "decoder_config.activation_dropout": keys.DROPOUT,
    }


def _resnet_keys(config: Mapping[str, Any]) -> Keys:
    kind = get(config, "backbone_config.layer_type", "bottleneck")
    blocks = tuple(get(config, "backbone_config.depths", (3, 4, 6, 3)))
    widths = list(get(config, "backbone_config.hidden_sizes", (256, 512, 1024, 2048)))
    width = widths[0]
    depth = RESNET_DEPTHS.get((kind, blocks))
    if depth is None:
        raise UserError(
            f"backbone_config.depths is {blocks} of layer_type {kind!r}; Detectron2 builds ResNets "
            f"of {list(RESNET_DEPTHS)}"
        )
    if widths != [width, 2 * width, 4 * width, 8 * width] or (kind == "basic" and width != 64):
        raise UserError(
            f"backbone_config.hidden_sizes is {widths}; in Detectron2's ResNets it doubles from "
            "stage to stage, and starts with 64 where layer_type is 'basic'"
        )
    return {
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": width,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // 4,
    }


def _resnet_architecture(cfg: CfgNode) -> Keys:
    keys = cfg.MODEL.RESNETS
    architecture = {depth: row for row, depth in RESNET_DEPTHS.items()}
    kind, blocks = architecture[keys.DEPTH]
    if "BN" not in keys.NORM:  # theirs would take others' scales for those of a batch norm
        raise UserError(
            f"MODEL.RESNETS.NORM is {keys.NORM!r}; ResNets of `transformers` have batch norms: "
            "FrozenBN, BN or SyncBN"
        )
    width = keys.RES2_OUT_CHANNELS
    if kind == "bottleneck":
        require({"MODEL.RESNETS.WIDTH_PER_GROUP": width // 4}, cfg)
    return {
        "backbone_config.layer_type": kind,
        "backbone_config.depths": list(blocks),
        "backbone_config.hidden_sizes": [width, 2 * width, 4 * width, 8 * width],
    }
