"""Plain ViTs against timm's own forward pass, and what heads do with their tokens."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from mask_former.backbone import Tokens, ViTEncoder
from mask_former.backbone.checkpointing import set_grad_checkpointing
from mask_former.errors import UserError
from tests.backbone.test_checkpointing import saved_bytes

# Of each kind the smallest: learned positions, a distillation token, registers and layer scales
# with positions of the patches alone, rotary positions.
MODELS = {
    "vit": "vit_tiny_patch16_224",
    "deit": "deit_tiny_distilled_patch16_224",
    "dinov2": "vit_small_patch14_reg4_dinov2",
    "dinov3": "vit_tiny_patch16_dinov3_qkvb",
}
PREFIX = {"vit": 1, "deit": 2, "dinov2": 5, "dinov3": 5}


def shaken(model):
    """Weights that all matter: layer scales of 1e-5 would hide the blocks."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name or name.endswith("_token") or name == "pos_embed":
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    """The kind, timm's model for images of 64 x 64 in patches of 16, and ours of its weights."""
    options = {"img_size": 64, "patch_size": 16}
    theirs = timm.create_model(
        MODELS[request.param], num_classes=0, dynamic_img_size=True, **options
    )
    ours = ViTEncoder(name=MODELS[request.param], **options)
    ours.model.load_state_dict(shaken(theirs).state_dict())
    return request.param, theirs.eval(), ours.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (32, 128)])
def test_tokens_are_timms(pair, size):
    kind, theirs, ours = pair
    images = torch.randn(2, 3, *size)
    tokens = ours(images)
    expected = theirs.forward_features(images)
    assert tokens.values.shape[1] == PREFIX[kind] + size[0] // 16 * (size[1] // 16)
    torch.testing.assert_close(tokens.values, expected, rtol=1e-4, atol=1e-4)
    assert tokens.grid == (size[0] // 16, size[1] // 16)
    third_of_second_row = tokens.values[:, PREFIX[kind] + tokens.grid[1] + 2]
    assert torch.equal(tokens.patches[:, :, 1, 2], third_of_second_row)


@torch.no_grad()
def test_a_size_between_is_the_padded_image(pair):
    ours = pair[2]
    image = torch.randn(1, 3, 40, 50)
    padded = torch.zeros(1, 3, 48, 64)
    padded[..., :40, :50] = image
    assert torch.equal(ours(image).values, ours(padded).values)


@torch.no_grad()
def test_queries_in_front_change_nothing_that_may_not_see_them(pair):
    """And the rotary positions stay with the patches."""
    kind, _, ours = pair
    images, queries = torch.randn(2, 3, 48, 64), torch.randn(2, 7, ours.channels)
    tokens = alone = ours.embed(images)
    total = tokens.values.shape[1] + 7
    mask = torch.ones(2, 1, total, total, dtype=torch.bool)
    mask[..., 7:, :7] = False
    tokens = tokens.behind(queries)
    for i in range(ours.depth):
        alone = ours.run_block(i, alone)
        tokens = ours.run_block(i, tokens, mask)
    torch.testing.assert_close(tokens.values[:, 7:], alone.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.patches, alone.patches, rtol=1e-4, atol=1e-4)
    # Queries have no place: their order is nothing but their order.
    if kind == "dinov3":
        tokens = ours.run_block(0, ours.embed(images).behind(queries))
        turned = ours.run_block(0, ours.embed(images).behind(queries.flip(1)))
        torch.testing.assert_close(turned.values[:, :7].flip(1), tokens.values[:, :7])


@torch.no_grad()
def test_bilinear_positions_are_segmenters():
    """Those of the grid without antialiasing; the class token's stays."""
    encoder = ViTEncoder(name=MODELS["vit"], img_size=64, interpolation="bilinear")
    shaken(encoder.model)
    encoder.model.patch_embed.proj.weight.zero_()
    encoder.model.patch_embed.proj.bias.zero_()
    found = encoder.embed(torch.zeros(1, 3, 32, 48)).values
    expected = resample_abs_pos_embed(
        encoder.model.pos_embed, (2, 3), (4, 4), interpolation="bilinear", antialias=False
    )
    torch.testing.assert_close(found[:, 1:], expected[:, 1:])
    torch.testing.assert_close(found[:, 0], encoder.model.cls_token[:, 0] + expected[:, 0])


@torch.no_grad()
def test_epsilon_of_norms():
    """Tokens of half a thousandth around their mean: their variance is a quarter of 1e-6."""
    encoder = ViTEncoder(name=MODELS["vit"], norm_eps=1e-5)
    values = torch.tensor([0.0005, -0.0005]).repeat(96).view(1, 1, 192)
    found = encoder.normalize(Tokens(values, (1, 1), None)).values
    torch.testing.assert_close(found, values / (2.5e-7 + 1e-5) ** 0.5)


def test_activation_checkpointing(pair):
    ours = pair[2]
    images = torch.randn(1, 3, 64, 64)
    results, kept = [], []
    for enable in (False, True):
        if enable:
            set_grad_checkpointing(ours)
        ours.zero_grad()
        kept.append(saved_bytes(lambda: results.append(ours(images).values)))
        results[-1].square().sum().backward()
        results[-1] = (results[-1], next(ours.model.blocks.parameters()).grad.clone())
    ours.set_grad_checkpointing(False)
    torch.testing.assert_close(*results)
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_tiny_patch16_225"}, "not know; the nearest are vit_tiny_patch16_224"),
        ({"name": "resnet18"}, "resnet18 is no plain ViT"),
        # One token for 32 x 32 pixels, though its patch size is 8.
        ({"name": "vit_tiny_r_s16_p8_224"}, "is no plain ViT; .* of convolutions"),
        (
            {"name": MODELS["vit"], "interpolation": "nearest"},
            "'nearest', .* one of bicubic",
        ),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        ViTEncoder(**options)
