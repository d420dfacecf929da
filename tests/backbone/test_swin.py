"""Swin as a Detectron2 backbone: equal to Detectron2's, with published names; stochastic depth."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.swin import SwinTransformer

from mask_former.backbone import D2SwinTransformer
from mask_former.backbone.swin_block import Block
from mask_former.backbone.windows import Windows
from mask_former.engine import get_cfg

TINY = {"embed_dim": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
STAGES = ["res2", "res3", "res4", "res5"]


def make(out_features=STAGES, **options):
    torch.manual_seed(0)
    return D2SwinTransformer(out_features=out_features, **{**TINY, **options})


def test_from_a_config():
    cfg = get_cfg()
    cfg.MODEL.SWIN.EMBED_DIM = 12
    cfg.MODEL.SWIN.DEPTHS = [1, 1, 1, 1]
    swin = D2SwinTransformer(cfg, ShapeSpec(channels=3))
    state = swin.state_dict()
    assert tuple(state["layers.0.blocks.0.attn.relative_position_bias_table"].shape) == (169, 3)
    assert {f"norm{i}.weight" for i in range(4)} <= state.keys()
    assert swin.size_divisibility == 32
    assert [s.channels for s in swin.output_shape().values()] == [12, 24, 48, 96]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (64, 96)),
        ({}, (61, 83)),
        ({"window_size": 7}, (61, 150)),
        ({"window_size": 12}, (64, 70)),
        ({"window_size": 7}, (9, 33)),  # every map is smaller than a window
        ({"ape": True, "pretrain_img_size": 32, "patch_norm": False}, (40, 48)),
        ({"qkv_bias": False, "qk_scale": 0.7, "mlp_ratio": 2.0, "patch_size": 2}, (21, 30)),
    ],
    ids=str,
)
def test_equals_detectron2(options, size):
    """Outputs and gradients, in double precision."""
    theirs = SwinTransformer(**{**TINY, "drop_path_rate": 0.0, **options}).double()
    ours = make(drop_path_rate=0.0, **options).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(2, 3, *size, dtype=torch.double)
    weights = [torch.randn(c, 1, 1, dtype=torch.double) for c in (8, 16, 32, 64)]
    for swin in (ours, theirs):
        swin.image = image.clone().requires_grad_()
        swin.outputs = list(swin(swin.image).values())
        sum((w * x.tanh()).sum() for w, x in zip(weights, swin.outputs, strict=True)).backward()
    torch.testing.assert_close(ours.outputs, theirs.outputs)
    torch.testing.assert_close(ours.image.grad, theirs.image.grad)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


@pytest.mark.parametrize("size", [(64, 96), (61, 150), (224, 224)])
def test_float32_outputs_are_detectron2s(size):
    """But for rounding: linear layers and maps have other shapes in between."""
    options = {**TINY, "window_size": 7, "drop_path_rate": 0.0}
    theirs, ours = SwinTransformer(**options), make(**options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(2, 3, *size)
    for ours_map, expected in zip(ours(image).values(), theirs(image).values(), strict=True):
        torch.testing.assert_close(ours_map, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format(layout):
    swin = make().to(memory_format=layout)
    for feature in swin(torch.randn(1, 3, 64, 96)).values():
        assert feature.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_output_shape_is_what_comes_out(size):
    swin = make(["res2", "res4"]).eval()
    outputs = swin(torch.randn(2, 3, *size))
    assert list(outputs) == list(swin.output_shape()) == ["res2", "res4"]
    for name, shape in swin.output_shape().items():
        expected = (2, shape.channels, *(-(-x // shape.stride) for x in size))
        assert outputs[name].shape == expected


def test_every_weight_learns():
    """Also without the last stage: distributed training wants a gradient of all."""
    swin = make(["res2", "res4"]).train()
    sum(x.square().sum() for x in swin(torch.randn(1, 3, 64, 64)).values()).backward()
    assert [name for name, p in swin.named_parameters() if p.grad is None] == []


def test_same_outputs_with_fewer_stages():
    every, some = make(), make(["res3"])
    some.load_state_dict({k: v for k, v in every.state_dict().items() if k in some.state_dict()})
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(some.eval()(image)["res3"], every.eval()(image)["res3"])


@pytest.mark.parametrize("names", [["p3", "res2"], []])
def test_unknown_stage(names):
    with pytest.raises(ValueError, match="OUT_FEATURES.*'res2'"):
        make(names)


def test_drop_path_of_all():
    with pytest.raises(ValueError, match=r"DROP_PATH_RATE is 1.0"):
        make(drop_path_rate=1.0)


@pytest.mark.parametrize("heads", [[2, 2, 2, 5], [2, 2]])
def test_heads_that_do_not_divide_or_lack(heads):
    with pytest.raises(ValueError, match="NUM_HEADS is .*divides its channels"):
        make(num_heads=heads)


def test_drop_path_grows_with_the_depth():
    swin = make(depths=[1, 2, 1, 1], drop_path_rate=0.4)
    rates = [block.drop_path for block in swin.modules() if isinstance(block, Block)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_bfloat16():
    swin = make().eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = swin(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = swin(image)
    for name in STAGES:
        assert (rounded[name] - exact[name]).abs().max() < 0.03 * exact[name].abs().max()


class TestStochasticDepth:
    """Of a block whose attention adds 1 to every token, and whose network adds 10."""

    @pytest.fixture(params=[False, True], ids=["run", "compiled"])
    def block(self, request, monkeypatch):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param)
        options = {"num_heads": 1, "window_size": 2, "qkv_bias": True, "qk_scale": None}
        block = Block(4, mlp_ratio=2, drop=0.0, drop_path=0.5, attn_drop=0.0, **options)
        with torch.no_grad():
            for weight in (block.attn.proj, block.mlp.fc2):
                weight.weight.zero_()
            block.attn.proj.bias.fill_(1)
            block.mlp.fc2.bias.fill_(10)
        return block.train()

    @pytest.fixture
    def windows(self):
        return Windows.of(2, 2, 2, 0, torch.device("cpu"))

    def test_whole_branches_of_an_image(self, block, windows):
        torch.manual_seed(0)
        added = torch.stack([block(torch.zeros(3, 2, 2, 4), windows) for _ in range(50)])
        by_image = added.flatten(0, 1).flatten(1)
        assert torch.equal(by_image, by_image[:, :1].expand_as(by_image))
        # Twice what is added on average, half of the time, independently of each other.
        values, counts = by_image[:, 0].unique(return_counts=True)
        assert values.tolist() == [0, 2, 20, 22]
        assert all(20 < count < 56 for count in counts.tolist())  # of 150; 3 sigma around 37.5

    def test_gradient_is_that_of_what_was_added(self, block, windows):
        torch.manual_seed(0)
        x = torch.randn(4, 2, 2, 4)
        block(x, windows).sum().backward()
        images = block.mlp.fc2.bias.grad / (2 * 4)  # each counts twice in each of its 4 tokens
        assert images.unique().numel() == 1
        assert images[0] in (0, 1, 2, 3, 4)

    def test_no_image_is_left(self, block, windows):
        """The weights have gradients all the same, which distributed training waits for."""
        block.drop_path = 1 - 1e-12
        x = torch.randn(2, 2, 2, 4)
        output = block(x, windows)
        assert torch.equal(output, x)
        output.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in block.parameters())

    def test_not_in_evaluation(self, block, windows):
        x = torch.randn(2, 2, 2, 4)
        torch.testing.assert_close(block.eval()(x, windows), x + 11)
