"""MODEL.FREEZE and SOLVER.LR_FACTORS: parameters by patterns of their names."""

import pytest
import torch
from torch import nn

from mask_former.engine import Trainer, load_config
from mask_former.engine.optimizer import build_optimizer
from mask_former.engine.parameters import (
    freeze,
    frozen_parts,
    names_like,
    rate_factors,
    warn_of_random_weights,
)
from mask_former.errors import UserError
from tests.engine import tiny
from tests.engine.test_model import SWIN, total_loss


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.head(self.backbone(x))


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


HEAD = {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["^backbone"], HEAD),
        (["^backbone", r"bias$"], {"head.0.weight", "head.2.weight"}),
        ([r"backbone\.[01]"], HEAD | {"backbone.2.weight", "backbone.2.bias"}),
    ],
)
def test_what_has_a_pattern_does_not_learn(patterns, left):
    model = Net()
    freeze(model, patterns)
    assert learning(model) == left


def test_frozen_batch_norms_keep_their_statistics_and_others_do_not():
    torch.manual_seed(0)
    model = Net()
    frozen, other = model.backbone[1], model.head[0]
    frozen.running_mean.fill_(0.3)
    freeze(model, ["^backbone"])
    x = torch.randn(2, 3, 5, 5)
    for mode in (True, False):
        model.train(mode)
        model(x)
        assert frozen.running_mean.tolist() == pytest.approx([0.3] * 4)
        assert frozen.num_batches_tracked == 0 and other.num_batches_tracked == 1
        assert other.training == model.head[1].training == mode
    # It normalizes by what it has gathered, not by the batch.
    model.train()(x)
    y = model.backbone[0](x)
    expected = (y - 0.3) / (1 + frozen.eps) ** 0.5
    torch.testing.assert_close(frozen(y), expected)


def test_a_norm_that_learns_in_part_keeps_gathering():
    model = Net()
    freeze(model, [r"backbone\.1\.weight"])
    model.train()(torch.randn(2, 3, 5, 5))
    assert model.backbone[1].num_batches_tracked == 1


def test_nothing_left_to_train():
    with pytest.raises(UserError, match="MODEL.FREEZE.*no parameter to train"):
        freeze(Net(), ["weight", "bias"])


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("^backbone.bottom_up", "backbone"),
        (r"^haed\.2", "head.2"),
        ("sem_seg_head.pixel_decoder.mask_feture", "sem_seg_head.pixel_decoder.mask_features"),
        ("pixel_decodre", "sem_seg_head.pixel_decoder"),
        ("query_embeding", "sem_seg_head.predictor.query_embed"),
    ],
)
def test_a_pattern_without_a_name_is_answered_with_near_ones(pattern, near):
    names = [name for name, _ in Net().named_parameters()] + [
        "sem_seg_head.pixel_decoder.mask_features.weight",
        "sem_seg_head.pixel_decoder.layer_1.weight",
        "sem_seg_head.predictor.query_embed.weight",
    ]
    with pytest.raises(UserError, match="MODEL.FREEZE: no parameter has a name like") as error:
        names_like(pattern, names, "MODEL.FREEZE")
    assert f" {near}," in str(error.value) or f" {near}." in str(error.value)


def test_factors_of_several_patterns_multiply():
    model = Net()
    model.head[2].requires_grad_(False)
    factors = rate_factors(model.named_parameters(), [("^head", 0.5), ("bias", 4.0)])
    assert factors == {
        "head.0.weight": 0.5,
        "head.0.bias": 2.0,
        "backbone.0.bias": 4.0,
        "backbone.1.bias": 4.0,
        "backbone.2.bias": 4.0,
    }


def test_a_factor_of_what_is_frozen_is_an_error():
    model = Net()
    freeze(model, ["^backbone"])
    with pytest.raises(UserError, match="LR_FACTORS: all parameters .*'backbone' are frozen"):
        rate_factors(model.named_parameters(), [("backbone", 0.1)])


def test_rates_of_a_model():
    """0.01, a tenth of it for the backbone, of that a half for res2, and twice for all biases; the
    frozen res5 has none."""
    cfg = tiny.tiny_cfg(
        "unused",
        SOLVER__BASE_LR=0.01,
        SOLVER__BACKBONE_MULTIPLIER=0.1,
        SOLVER__LR_FACTORS=[[r"^backbone\.res2", 0.5], ["bias$", 2.0]],
        MODEL__FREEZE=["res5"],
    )
    model = Trainer.build_model(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[p]: group["lr"]
        for group in build_optimizer(cfg, model).param_groups
        for p in group["params"]
    }
    assert found == {
        name: pytest.approx(
            0.01
            * (0.1 if "backbone" in name else 1)
            * (0.5 if "res2" in name else 1)
            * (2 if name.endswith("bias") else 1)
        )
        for name in names.values()
        if "res5" not in name
    }


@pytest.mark.parametrize("pattern", [r"^backbone\.layers\.0", "^backbone"])
def test_activation_checkpointing_beside_what_is_frozen(pattern):
    """The same loss and gradients, and none of what is frozen."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        key = "MODEL__BACKBONE__ACTIVATION_CHECKPOINTING"
        cfg = tiny.tiny_cfg("unused", **SWIN, **{key: checkpointing}, MODEL__FREEZE=[pattern])
        cfg.MODEL.MASK_FORMER.DROPOUT = 0.0
        model = Trainer.build_model(cfg).train()
        loss = total_loss(model)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert gradients.keys() == learning(model)
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(*found)


def test_the_largest_frozen_parts():
    model = Net()
    assert frozen_parts(model) == []
    freeze(model, [r"^backbone\.[01]", r"head\.2\.bias"])
    assert frozen_parts(model) == ["backbone.0", "backbone.1", "head.2.bias"]
    freeze(model, ["^backbone"])
    assert frozen_parts(model) == ["backbone", "head.2.bias"]


def test_random_weights_that_stay_are_worth_a_warning(caplog):
    model, cfg = Net(), load_config()
    warn_of_random_weights(cfg, model)
    freeze(model, [r"^backbone\.[01]"])
    for key, value in (("MODEL.WEIGHTS", "a.pth"), ("MODEL.TIMM.PRETRAINED", True)):
        warn_of_random_weights(load_config(opts=[key, value]), model)
    assert not caplog.records
    warn_of_random_weights(cfg, model)
    assert "stays random: backbone.0, backbone.1. To" in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FREEZE", "['(']", "no regular expression"),
        ("MODEL.FREEZE", "[1]", "elements must be texts"),
        ("SOLVER.LR_FACTORS", "[['a', 0]]", "factor above 0.*MODEL.FREEZE"),
        ("SOLVER.LR_FACTORS", "['a', 0.5]", "pairs of a pattern and a factor"),
        ("SOLVER.LR_FACTORS", "[['a', 0.5, 1]]", "pairs of a pattern and a factor"),
        ("SOLVER.LR_FACTORS", "[['a', True]]", "pairs of a pattern and a factor"),
        ("SOLVER.LR_FACTORS", "[['(', 0.5]]", "no regular expression"),
        ("SOLVER.LAYER_DECAY_PATTERN", "(", "no regular expression"),
        ("MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "[1, -1]", "at least 0"),
        ("MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "['dog']", "elements must be numbers"),
        ("SOLVER.ACCUMULATION_STEPS", "0", "at least 1"),
        ("SOLVER.EARLY_STOPPING_PATIENCE", "-1", "at least 0"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "-8", "at least 0"),
        ("TEST.LOSS.DATASETS", "(1,)", "elements must be texts"),
        ("TEST.LOSS.ENABLED", "1", "must be a bool"),
    ],
)
def test_values_that_a_config_may_not_have(key, value, message):
    with pytest.raises(UserError, match=f"(?s){key}.*{message}"):
        load_config(opts=[key, value])


def test_frozen_weights_stay_and_a_resumed_run_goes_on_bit_for_bit(shapes_root, tmp_path):
    """With mixed precision, EMA and factors. Another pattern does not fit the optimizer's state."""
    options = {
        "MODEL__FREEZE": ["^backbone", "mask_features"],
        "SOLVER__LR_FACTORS": [["query_embed", 3.0]],
        "SOLVER__EMA_DECAY": 0.9,
        "SOLVER__AMP__ENABLED": True,
        "DATASETS__TEST": (),
    }
    cfg = tiny.tiny_cfg(tmp_path / "run", **options)
    torch.manual_seed(cfg.SEED)
    expected = tiny.run_here(cfg)
    first, last = (
        torch.load(tmp_path / "run" / name, weights_only=True)
        for name in ("model_0000002.pth", "model_final.pth")
    )
    for name, weight in last["trainer"]["trained"].items():
        stays = name.startswith("backbone") or "mask_features" in name
        assert torch.equal(weight, first["trainer"]["trained"][name]) == stays, name
        assert not stays or torch.equal(last["model"][name], weight)
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000002.pth")
    losses = tiny.run_here(cfg, "--resume")["losses"]
    assert losses == {k: v for k, v in expected["losses"].items() if int(k) >= 3}
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000002.pth")
    other = tiny.tiny_cfg(tmp_path / "run", **options | {"MODEL__FREEZE": ["^backbone"]})
    with pytest.raises(UserError, match="optimizer of the checkpoint.*MODEL.FREEZE"):
        tiny.run_here(other, "--resume")
