"""From a config to its model."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_meta_architecture
from torch import nn

from mask_former.backbone.checkpointing import set_grad_checkpointing


def build_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's `build_model`, and the keys that say how any model runs, not what it is:
    MODEL.BACKBONE.ACTIVATION_CHECKPOINTING and MODEL.COMPILE. Names of weights stay.

    Raises:
        UserError: there is no activation checkpointing for the backbone.
    """
    model = build_meta_architecture(cfg)
    if cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING:
        set_grad_checkpointing(model.backbone)
    if cfg.MODEL.COMPILE:
        model.backbone.compile()
        model.sem_seg_head.compile()
    return model
