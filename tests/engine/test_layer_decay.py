"""Layer-wise decay of the learning rate, by the names of parameters."""

import pytest
from torch import nn

from mask_former.engine.config import get_cfg
from mask_former.engine.optimizer import build_optimizer, layer_factors
from mask_former.errors import UserError


def test_layers_learn_the_slower_the_deeper_they_lie():
    names = ["backbone.model.pos_embed", "backbone.model.patch_embed.proj.weight"]
    names += [f"backbone.model.blocks.{i}.mlp.fc1.weight" for i in range(3)]
    names += ["backbone.model.norm.weight", "sem_seg_head.blocks.0.weight"]
    pattern = get_cfg().SOLVER.LAYER_DECAY_PATTERN
    assert layer_factors(names, 0.5, pattern) == {
        "backbone.model.pos_embed": 0.25,
        "backbone.model.patch_embed.proj.weight": 0.25,
        "backbone.model.blocks.0.mlp.fc1.weight": 0.25,
        "backbone.model.blocks.1.mlp.fc1.weight": 0.5,
    }
    assert layer_factors(names, 1.0, pattern) == {}
    with pytest.raises(UserError, match="LAYER_DECAY_PATTERN 'layer"):
        layer_factors(names, 0.5, r"layer\.(\d+)")
    with pytest.raises(UserError, match="LAYER_DECAY is 0"):
        layer_factors(names, 0, pattern)


def test_layer_decay_of_a_model():
    """With the backbone's rate, 0.1 of 1.0, and its last layer but one at half of that."""
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LAYER_DECAY = 1.0, 0.5
    model = nn.Module()
    model.backbone, model.head = nn.Module(), nn.Linear(1, 1)
    model.backbone.blocks = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    groups = build_optimizer(cfg, model).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.1, 1.0])
