"""Activation checkpointing changes nothing but memory and time."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mask_former.backbone import D2SwinTransformer
from mask_former.backbone.checkpointing import linear_of, set_grad_checkpointing
from mask_former.errors import UserError


def swin():
    return D2SwinTransformer(
        out_features=["res2", "res5"],
        embed_dim=8,
        depths=[2, 2, 2, 2],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.5,
    )


def resnet():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def saved_bytes(step):
    """What autograd keeps for the gradients of `step`."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(kept.values())


@pytest.mark.parametrize("make", [swin, resnet])
class TestCheckpointing:
    def test_same_outputs_gradients_and_statistics(self, make):
        torch.manual_seed(0)
        plain = make().train()
        checkpointed = copy.deepcopy(plain)
        set_grad_checkpointing(checkpointed)
        image = torch.randn(2, 3, 64, 64)
        for backbone in (plain, checkpointed):
            torch.manual_seed(1)
            backbone.outputs = backbone(image)
            sum(x.square().sum() for x in backbone.outputs.values()).backward()
            backbone.drawn = torch.rand(1)
        assert torch.equal(checkpointed.drawn, plain.drawn)
        for name, output in plain.outputs.items():
            assert torch.equal(checkpointed.outputs[name], output)
        gradients = {name: p.grad for name, p in plain.named_parameters()}
        for name, parameter in checkpointed.named_parameters():
            assert torch.equal(parameter.grad, gradients[name]), name
        state = plain.state_dict()
        assert list(state) == list(checkpointed.state_dict())
        for name, value in checkpointed.state_dict().items():
            assert torch.equal(value, state[name]), name

    def test_keeps_less(self, make):
        backbone = make().train()
        image = torch.randn(1, 3, 64, 64)
        before = saved_bytes(lambda: backbone(image))
        set_grad_checkpointing(backbone)
        assert saved_bytes(lambda: backbone(image)) < before / 3

    def test_a_copy_is_its_own(self, make):
        backbone = make().eval()
        set_grad_checkpointing(backbone)
        twin = copy.deepcopy(backbone)
        image = torch.randn(1, 3, 64, 64)
        before = backbone(image)["res5"]
        nn.init.zeros_(next(twin.parameters()))
        assert torch.equal(backbone(image)["res5"], before)
        assert not torch.equal(twin(image)["res5"], before)


def test_running_statistics_in_evaluation():
    """Frozen norms of a training (in evaluation mode) keep normalizing with their statistics."""
    torch.manual_seed(0)
    plain = resnet().train()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    checkpointed = copy.deepcopy(plain)
    set_grad_checkpointing(checkpointed)
    image = torch.randn(2, 3, 64, 64)
    for backbone in (plain, checkpointed):
        backbone(image)["res5"].square().sum().backward()
    for ours, expected in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, expected.grad)


def test_a_backbone_without():
    with pytest.raises(UserError, match="ACTIVATION_CHECKPOINTING.*not Sequential"):
        set_grad_checkpointing(nn.Sequential(nn.Linear(2, 2)))


def test_the_input_of_a_linear_layer_is_computed_again_and_its_product_is_not():
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 5)
    x = torch.randn(3, 8, requires_grad=True)
    leaves = (x, *norm.parameters(), *linear.parameters())
    calls = 0

    def counted(y):
        nonlocal calls
        calls += 1
        return norm(y).square()

    results, flops = [], []
    for function in (linear_of, lambda f, y, layer: layer(f(y))):
        with FlopCounterMode(display=False) as counter:
            output = function(counted, x, linear)
            output.square().sum().backward()
        results.append((output, [leaf.grad for leaf in leaves]))
        for leaf in leaves:
            leaf.grad = None
        flops.append(counter.get_total_flops())
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert calls == 2 + 1
    assert flops[0] == flops[1] > 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_on_the_meta_device_as_much_is_kept_as_on_gpus(device):
    """Where the memory of trainings is estimated; see `mask_former.engine.memory`."""
    linear = nn.Linear(8, 5, device=device)
    x = torch.zeros(3, 8, device=device, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        linear_of(torch.exp, x, linear)
    computed = [t for t in kept if t is not x and t is not linear.weight and t.shape == x.shape]
    assert bool(computed) == (device == "meta")
