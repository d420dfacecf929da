"""Segmenter's head: decoders against the paper's formulas, initialisation, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from mask_former.engine import build_model, get_cfg
from mask_former.engine.optimizer import build_optimizer
from mask_former.errors import UserError
from mask_former.head.segmenter import LinearDecoder, MaskTransformer, SegmenterHead

K, C = 5, 128


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def attention(layer, x):
    """Multi-head attention written out; two heads of 64 channels."""
    q, k, v = (x @ layer.in_proj_weight.T + layer.in_proj_bias).chunk(3, -1)
    heads = []
    for part in (slice(0, 64), slice(64, 128)):
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 8).softmax(-1)
        heads.append(weights @ v[..., part])
    return layer.out_proj(torch.cat(heads, -1))


@torch.no_grad()
def test_the_mask_transformer_is_the_papers():
    decoder = MaskTransformer(dim=C, num_classes=K).eval()
    for parameter in decoder.parameters():  # norms and biases, too
        parameter.add_(0.1 * torch.randn_like(parameter))
    patches = torch.randn(2, C, 3, 4)
    x = torch.cat(
        (decoder.proj_dec(patches.flatten(2).transpose(1, 2)), decoder.cls_emb.expand(2, -1, -1)), 1
    )
    for layer in decoder.transformer.layers:
        x = x + attention(layer.self_attn, layer.norm1(x))
        x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
    x = decoder.transformer.norm(x)
    pixels, classes = x[:, :12] @ decoder.proj_patch, x[:, 12:] @ decoder.proj_classes
    cosine = torch.cosine_similarity(pixels[:, :, None], classes[:, None], -1)
    expected = decoder.mask_norm(cosine).transpose(1, 2).view(2, K, 3, 4)
    torch.testing.assert_close(decoder(patches), expected)


def test_the_linear_decoder_classifies_patch_by_patch():
    decoder, patches = LinearDecoder(dim=C, num_classes=K), torch.randn(2, C, 3, 4)
    logits = decoder(patches)
    assert logits.shape == (2, K, 3, 4)
    torch.testing.assert_close(logits[1, :, 2, 0], decoder.head(patches[1, :, 2, 0]))


def test_initial_weights():
    decoder = MaskTransformer(dim=C, num_classes=K)
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            std = C**-0.5 if name in ("proj_patch", "proj_classes") else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.1), name


def make_cfg(**opts):
    cfg = get_cfg()
    values = {
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__DEVICE": "cpu",
        "MODEL__BACKBONE__NAME": "ViTEncoder",
        "MODEL__VIT__NAME": "vit_tiny_patch16_224",
        "MODEL__VIT__IMG_SIZE": 32,
        "MODEL__SEM_SEG_HEAD__NAME": "SegmenterHead",
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": K,
        **opts,
    }
    for key, value in values.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


@pytest.mark.parametrize("decoder", ["LinearDecoder", "MaskTransformer"])
@pytest.mark.parametrize("vit", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_trains_on_images_of_any_size(decoder, vit):
    model = build_model(make_cfg(MODEL__VIT__NAME=vit, MODEL__SEGMENTER__DECODER_NAME=decoder))
    inputs = [
        {
            "image": torch.randint(256, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(K, size),
        }
        for size in ((33, 50), (16, 20))
    ]
    losses = model(inputs)
    assert losses.keys() == {"loss_sem_seg"}
    # Nothing is known yet: about the entropy of K classes.
    assert losses["loss_sem_seg"].item() < 3 * torch.tensor(float(K)).log()
    losses["loss_sem_seg"].backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused  # distributed training waits for the gradient of every parameter
    with torch.no_grad():
        results = model.eval()(inputs)
    assert [result["sem_seg"].shape for result in results] == [(K, 33, 50), (K, 16, 20)]


def test_the_embeddings_of_classes_do_not_decay():
    cfg = make_cfg(SOLVER__WEIGHT_DECAY=0.1)
    model = build_model(cfg)
    decays = {
        id(p): group["weight_decay"]
        for group in build_optimizer(cfg, model).param_groups
        for p in group["params"]
    }
    predictor, vit = model.sem_seg_head.predictor, model.backbone.model
    assert [decays[id(p)] for p in (predictor.cls_emb, vit.pos_embed, vit.cls_token)] == [0] * 3
    assert decays[id(predictor.proj_patch)] == 0.1


def test_what_is_refused():
    maps = {name: ShapeSpec(channels=8, stride=4) for name in ("res2", "res3")}
    with pytest.raises(UserError, match="SegmenterHead.*res2, res3.*ViTEncoder"):
        SegmenterHead(make_cfg(), maps)
    tokens = {"tokens": ShapeSpec(channels=C, stride=16)}
    with pytest.raises(UserError, match="'Linear', .* one of LinearDecoder, MaskTransformer"):
        SegmenterHead(make_cfg(MODEL__SEGMENTER__DECODER_NAME="Linear"), tokens)
    head = SegmenterHead(predictor=nn.Identity(), patch_size=16)
    head.classify = lambda features: torch.zeros(1, 1, K, 2, 2)
    with pytest.raises(UserError, match="SegmenterHead.*mask_former_semantic"):
        head(None)
