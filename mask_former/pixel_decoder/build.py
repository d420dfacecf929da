"""The registry of pixel decoders, and what they have in common: the memory that they offer."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from mask_former.errors import UserError, check_choice

PIXEL_DECODER_REGISTRY = Registry("PIXEL_DECODER")
PIXEL_DECODER_REGISTRY.__doc__ = """
Pixel decoders, by the name in `MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME`. A pixel decoder

* is made by `Decoder(cfg, input_shape)`, with the backbone's `output_shape()`;
* maps the backbone's features, {name: (B, C, h, w)}, to `structures.PixelFeatures`;
* has `memory_shape`, the `ShapeSpec`s of `PixelFeatures.memory`;
* may have `embedding_stride`, that of the per-pixel embeddings, for heads to compare with theirs.

`MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE` chooses the memory: the name of a backbone map,
`pixel_embedding`, `multi_scale_pixel_decoder` (the decoder's own maps, the three coarsest), or what
else a decoder offers.
"""

PIXEL_EMBEDDING = "pixel_embedding"
MULTI_SCALE = "multi_scale_pixel_decoder"
_NUM_SCALES = 3  # of MULTI_SCALE, at most
_GROUPS = 32  # of Detectron2's group norms

Map = TypeVar("Map", ShapeSpec, Tensor)


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the pixel decoder that `MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME` names.

    Raises:
        UserError: there is no such pixel decoder, or its channels do not make groups.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    check_choice("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", name, dict(PIXEL_DECODER_REGISTRY))
    channels = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    if cfg.MODEL.SEM_SEG_HEAD.NORM == "GN" and channels % _GROUPS:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {channels}, but group norms (NORM GN) need a "
            f"multiple of {_GROUPS}."
        )
    return PIXEL_DECODER_REGISTRY.get(name)(cfg, input_shape)


def shared_options(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
    """The arguments that all pixel decoders take, from their keys."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "input_shape": input_shape,
        "in_features": head.IN_FEATURES,
        "conv_dim": head.CONVS_DIM,
        "mask_dim": head.MASK_DIM,
        "norm": head.NORM,
        "memory": cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE,
    }


def choose_memory(
    memory: str, features: Mapping[str, Map], pyramid: Sequence[Map], **others: Map
) -> tuple[Map, ...]:
    """The maps of the memory of that name, or their shapes, whichever is given.

    Args:
        memory: the name.
        features: of the backbone.
        pyramid: the decoder's own maps, coarse to fine.
        others: what else the decoder offers, by name, such as `pixel_embedding`.

    Raises:
        UserError: nothing that is offered has the name.
    """
    offered = {name: (offer,) for name, offer in {**features, **others}.items()}
    offered[MULTI_SCALE] = tuple(pyramid[:_NUM_SCALES])
    if memory not in offered:
        raise UserError(
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {memory!r}, but the backbone and the "
            f"pixel decoder give only {sorted(offered)}"
        )
    return offered[memory]


def check_in_features(names: list[str], input_shape: Mapping[str, ShapeSpec], key: str) -> None:
    """Check that a decoder's input maps are maps of the backbone.

    Raises:
        UserError: `names`, the value of `key`, is empty, has an unknown name, or one twice.
    """
    missing = set(names) - set(input_shape)
    if missing or not names:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.{key} names {sorted(missing) or 'no map'}, but the backbone gives "
            f"only {sorted(input_shape)}; see its OUT_FEATURES"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.{key} is {list(names)}, with {' and '.join(twice)} twice; the "
            f"backbone has one map of each name, {sorted(input_shape)}"
        )
