"""From a config to its model."""

import difflib

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.modeling import build_model as build_meta_architecture
from torch import nn

from mask_former.backbone.checkpointing import set_grad_checkpointing
from mask_former.backbone.frozen_norm import fold_frozen_norms
from mask_former.engine.keys import value_of
from mask_former.engine.parameters import freeze
from mask_former.errors import UserError

# The keys that name registered components which Detectron2 builds.
_REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}
# The meta-architectures here and the heads that they run, of those that are registered here.
_HEADS = {
    "MaskFormer": ("MaskFormerHead",),
    "SemanticSegmentor": ("PerPixelBaselineHead", "PerPixelBaselinePlusHead", "SegmenterHead"),
    "EoMT": ("EoMTHead",),
}


def check_names(cfg: CfgNode) -> None:
    """Raise UserError if cfg names a component that is not registered, or a head that is another
    meta-architecture's."""
    for key, registry in _REGISTRIES.items():
        if (name := value_of(cfg, key)) not in registry:
            known = [known for known, _ in registry]
            nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise UserError(
                f"{key} is {name!r}, which is not registered; the nearest are "
                f"{', '.join(nearest)}. Components of your own are registered by the modules that "
                "IMPORTS names."
            )
    chosen, head = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME
    for architecture, heads in _HEADS.items():
        if head in heads and chosen in _HEADS.keys() - {architecture}:
            raise UserError(
                f"MODEL.META_ARCHITECTURE is {chosen}, but MODEL.SEM_SEG_HEAD.NAME {head} is for "
                f"{architecture}: set the one to that, or the other to "
                f"{' or '.join(_HEADS[chosen])}."
            )


def build_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's `build_model`, MODEL.FREEZE, and what makes any model run faster or in less
    memory: folded frozen norms, MODEL.BACKBONE.ACTIVATION_CHECKPOINTING and MODEL.COMPILE. Weights
    keep their names.

    Raises:
        UserError: a component is not registered, or the head is another meta-architecture's; there
            is no activation checkpointing for the backbone; a pattern of MODEL.FREEZE fits no
            parameter.
    """
    check_names(cfg)
    model = build_meta_architecture(cfg)
    freeze(model, cfg.MODEL.FREEZE)
    fold_frozen_norms(model)
    if cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING or cfg.MODEL.SWIN.USE_CHECKPOINT:
        set_grad_checkpointing(model.backbone)
    if cfg.MODEL.COMPILE:
        model.backbone.compile()
        model.sem_seg_head.compile()
    return model
