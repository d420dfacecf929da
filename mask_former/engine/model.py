"""From a config to its model."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_meta_architecture
from torch import nn

from mask_former.backbone.checkpointing import set_grad_checkpointing
from mask_former.backbone.frozen_norm import fold_frozen_norms
from mask_former.engine.parameters import freeze


def build_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's `build_model`, MODEL.FREEZE, and what makes any model run faster or in less
    memory: folded frozen norms, MODEL.BACKBONE.ACTIVATION_CHECKPOINTING and MODEL.COMPILE. Weights
    keep their names.

    Raises:
        UserError: there is no activation checkpointing for the backbone; a pattern of MODEL.FREEZE
            fits no parameter.
    """
    model = build_meta_architecture(cfg)
    freeze(model, cfg.MODEL.FREEZE)
    fold_frozen_norms(model)
    if cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING or cfg.MODEL.SWIN.USE_CHECKPOINT:
        set_grad_checkpointing(model.backbone)
    if cfg.MODEL.COMPILE:
        model.backbone.compile()
        model.sem_seg_head.compile()
    return model
