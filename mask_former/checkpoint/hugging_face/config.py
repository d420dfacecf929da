"""Configurations of `transformers`' MaskFormer and Mask2Former: to our keys and back.

Only keys that describe the model and its input. What one side cannot express is an error. How to
train is left out: the supervision of every layer (transformers 5.23 fails with it), and two of the
three dropout rates of their decoder, where we have one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from mask_former.checkpoint.hugging_face.keys import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MASK2FORMER,
    MASK_FORMER,
    OUR_RESNET,
    OUR_SWIN,
    PROCESSOR,
    RESNET,
    RESNET_DEPTHS,
    SWIN,
    THEIR_RESNET,
    THEIR_SWIN,
    Model,
)
from mask_former.errors import UserError

Keys = dict[str, Any]


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
    kind = _get(config, "backbone_config.model_type", None)
    if kind not in ("swin", "maskformer-swin", "resnet"):
        raise UserError(
            f"backbone_config.model_type is {kind!r}; only models with a ResNet or a Swin "
            "Transformer can be converted"
        )
    is_swin = kind != "resnet"
    model = MASK2FORMER if config.get("model_type") == "mask2former" else MASK_FORMER
    _require({**model.theirs, **(THEIR_SWIN if is_swin else THEIR_RESNET)}, config)
    if is_swin:
        keys = {**model.ours, **OUR_SWIN}
    else:
        keys = {**model.ours, **OUR_RESNET, **_resnet_keys(config)}
    for theirs, ours, default in model.keys + (SWIN if is_swin else RESNET):
        keys[ours] = _coerced(theirs, _get(config, theirs, default), default)
    keys["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = len(_get(config, "id2label", {"0": "", "1": ""}))
    return {**keys, **_input_keys(processor or {})}


def config_to_hugging_face(cfg: CfgNode, class_names: Sequence[str] | None = None) -> Keys:
    """The `config.json` of the model of `transformers` that equals ours.

    Args:
        class_names: by contiguous id; made up if they are not known.

    Raises:
        UserError: `transformers` has no such model; names the key.
    """
    model = _model(cfg)
    _require(model.ours, cfg)
    backbone = cfg.MODEL.BACKBONE.NAME
    is_swin = backbone == "D2SwinTransformer"
    _require(OUR_SWIN if is_swin else OUR_RESNET, cfg)
    flat = {**model.theirs, **(THEIR_SWIN if is_swin else THEIR_RESNET)}
    for theirs, ours, _ in model.keys + (SWIN if is_swin else RESNET):
        flat[theirs] = _get(cfg, ours, None)
    if not is_swin:
        flat.update(_resnet_architecture(cfg))
    flat["backbone_config.model_type"] = model.swin if is_swin else "resnet"
    if model is MASK_FORMER:
        flat.update(_mask_former_keys(cfg, is_swin))
    else:  # They have one number of heads.
        key = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"
        _require({key: cfg.MODEL.MASK_FORMER.NHEADS}, cfg)
    flat["backbone_config.out_features"] = [f"stage{i}" for i in range(1, 5)]
    flat["architectures"] = [model.name]
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if class_names is None or len(class_names) != num_classes:
        class_names = [f"LABEL_{i}" for i in range(num_classes)]
    flat["id2label"] = {str(i): name for i, name in enumerate(class_names)}
    flat["label2id"] = {name: i for i, name in enumerate(class_names)}
    return nested(flat)


def processor_to_hugging_face(cfg: CfgNode) -> Keys:
    """The `preprocessor_config.json` of the model of `transformers` that equals ours."""
    divisor = cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    return {
        "image_processor_type": _model(cfg).processor,
        **PROCESSOR,
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
        "do_resize": cfg.INPUT.MIN_SIZE_TEST > 0,
        "size": {
            "shortest_edge": cfg.INPUT.MIN_SIZE_TEST,
            "longest_edge": cfg.INPUT.MAX_SIZE_TEST,
        },
        "size_divisor": 32 if divisor < 0 else divisor,
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        "num_labels": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    }


def nested(keys: Mapping[str, Any]) -> Keys:
    """{"A.B": 1, "C": 2} -> {"A": {"B": 1}, "C": 2}."""
    result: Keys = {}
    for key, value in keys.items():
        *sections, last = key.split(".")
        section = result
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return result


def _model(cfg: CfgNode) -> Model:
    keys = cfg.MODEL.MASK_FORMER
    predictor = keys.TRANSFORMER_DECODER_NAME or keys.PREDICTOR_NAME
    return MASK2FORMER if predictor == "MultiScaleMaskedTransformerDecoder" else MASK_FORMER


def _mask_former_keys(cfg: CfgNode, is_swin: bool) -> Keys:
    keys = cfg.MODEL.MASK_FORMER
    first_width = cfg.MODEL.SWIN.EMBED_DIM if is_swin else cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    if 8 * first_width == keys.HIDDEN_DIM:  # They project res5 only where they must.
        _require({"MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False}, cfg)
    return {
        "decoder_config.attention_dropout": keys.DROPOUT,
        "decoder_config.activation_dropout": keys.DROPOUT,
    }


def _resnet_keys(config: Mapping[str, Any]) -> Keys:
    kind = _get(config, "backbone_config.layer_type", "bottleneck")
    blocks = tuple(_get(config, "backbone_config.depths", (3, 4, 6, 3)))
    widths = list(_get(config, "backbone_config.hidden_sizes", (256, 512, 1024, 2048)))
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
    width = keys.RES2_OUT_CHANNELS
    if kind == "bottleneck":
        _require({"MODEL.RESNETS.WIDTH_PER_GROUP": width // 4}, cfg)
    return {
        "backbone_config.layer_type": kind,
        "backbone_config.depths": list(blocks),
        "backbone_config.hidden_sizes": [width, 2 * width, 4 * width, 8 * width],
    }


def _input_keys(processor: Mapping[str, Any]) -> Keys:
    _require(PROCESSOR, {**PROCESSOR, **processor})
    size = processor.get("size", {})
    if isinstance(size, int):  # before transformers 4.27
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size", 1333)}
    keys = {
        # The published keys have three decimals; a product of floats has noise behind them.
        "MODEL.PIXEL_MEAN": [round(255 * x, 6) for x in processor.get("image_mean", IMAGENET_MEAN)],
        "MODEL.PIXEL_STD": [round(255 * x, 6) for x in processor.get("image_std", IMAGENET_STD)],
    }
    if "shortest_edge" in size:
        keys["INPUT.MIN_SIZE_TEST"] = size["shortest_edge"]
    if "longest_edge" in size:
        keys["INPUT.MAX_SIZE_TEST"] = size["longest_edge"]
    return keys


def _get(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of "a.b.c" in nested dictionaries; the default where there is none."""
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            return default
        value = value[name]
    return list(value) if isinstance(value, tuple) else value


def _coerced(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`; of a square, such as an image, one side."""
    try:
        if isinstance(value, list) and not isinstance(default, list):
            value = value[0]
        return type(default)(value)
    except (ValueError, TypeError, IndexError) as error:
        kind = type(default).__name__
        raise UserError(f"{key} is {value!r}, but should be a {kind}, like {default!r}") from error


def _require(constants: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for key, needed in constants.items():
        value = _get(config, key, None if needed is None else needed)
        if value != needed:
            raise UserError(f"{key} is {value!r}; the two models have in common only {needed!r}")
