"""PEM's attention: prototypes and masks by hand, its published oddities, gradients, errors."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from mask_former.layers import TransformerOptions
from mask_former.predictor import PrototypeTransformerDecoder
from mask_former.predictor.masked_attention import Level
from mask_former.predictor.prototype_attention import PrototypeAttention, prototype_mask
from tests.predictor.pixels import make_pixels

OPTIONS = TransformerOptions(num_heads=2, dim_feedforward=16, dropout=0.0, pre_norm=True)


def make(channels=(8, 8, 8), **options):
    torch.manual_seed(0)
    shapes = [ShapeSpec(channels=c, stride=32 // 2**i) for i, c in enumerate(channels)]
    defaults = {"num_classes": 3, "num_queries": 5, "hidden_dim": 8, "mask_dim": 6, "norm": "BN"}
    defaults |= {"num_layers": 4, "transformer": OPTIONS}
    return PrototypeTransformerDecoder(memory_shape=shapes, **{**defaults, **options})


def test_prototypes_by_hand():
    """Two heads of two channels: each takes its channels of the pixel that is most like it."""
    pixels = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [-1, 0, 5, 5]])[None]
    queries = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, -1]])[None]
    attention = PrototypeAttention(4, OPTIONS, "BN")
    everywhere = torch.ones(1, 2, 3, dtype=torch.bool)
    found = attention.prototypes(queries, pixels, everywhere)
    assert found.tolist() == [[[1, 0, 5, 5], [0, 1, 1, 0]]]
    # The second query may choose among the first and the last pixel; of two as like, the first.
    mask = torch.tensor([[[True, False, False], [True, False, True]]])
    found = attention.prototypes(queries, pixels, mask)
    assert found.tolist() == [[[1, 0, 0, 1], [1, 0, 0, 1]]]


def test_an_empty_mask_is_lifted_only_where_all_masks_of_an_image_are_empty():
    """As published. A query whose mask is empty gets the first pixel."""
    pixels = torch.tensor([[[2.0, 0.0, -1.0]], [[-2.0, -3.0, -1.0]]]).view(2, 1, 1, 3)
    embeddings = torch.tensor([[[1.0], [-1.0]], [[1.0], [2.0]]])
    mask = prototype_mask(embeddings, pixels)
    # A probability of 0.5 is inside.
    assert mask[0].tolist() == [[True, True, False], [False, True, True]]
    assert mask[1].tolist() == [[True] * 3] * 2
    mask = prototype_mask(embeddings[:1], pixels[:1] + 1.5)
    assert mask[0].tolist() == [[True] * 3, [False] * 3]
    queries, features = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    attention = PrototypeAttention(4, OPTIONS, "BN")
    assert torch.equal(attention.prototypes(queries, features, mask)[0, 1], features[0, 0])


def test_the_layer_by_hand():
    """Every step written out, with one head, so that prototypes are whole pixels."""
    torch.manual_seed(0)
    layer = PrototypeAttention(8, TransformerOptions(num_heads=1), "BN").eval()
    layer.alpha.data.normal_()
    x, query_pos = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    keys, embeddings = torch.randn(2, 12, 8), torch.randn(2, 6, 3, 4)
    masks = torch.randn(2, 5, 6)
    output = layer(x, query_pos, Level(keys, keys, embeddings), masks)

    feature = keys.mT.reshape(2, 8, 3, 4) / (1 + 1e-5) ** 0.5
    conv = layer.feature_proj.to_query_3x3
    feature = F.conv2d(feature, conv.weight, conv.bias, padding=1, groups=8)
    pixels = layer.feature_proj.out(feature.flatten(2).mT)
    pixels = pixels / pixels.norm(dim=2, keepdim=True)
    queries = layer.query_proj(x + query_pos)
    queries = queries / queries.norm(dim=2, keepdim=True)
    inside = torch.einsum("bqc,bchw->bqhw", masks, embeddings).flatten(2) >= 0
    assert inside.any(2).all()
    nearest = (torch.einsum("bqc,bsc->bqs", queries, pixels) - 9 * ~inside).argmax(2)
    prototypes = torch.stack([p[n] for p, n in zip(pixels, nearest, strict=True)])
    weights = layer.proj(prototypes * queries)
    # As published: of length 1 over the queries, for each channel.
    weights = weights / weights.norm(dim=1, keepdim=True)
    expected = x + layer.final(prototypes + layer.alpha * weights)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_chosen_pixels_alone():
    torch.manual_seed(0)
    layer = PrototypeAttention(8, TransformerOptions(num_heads=1), "BN")
    pixels = torch.randn(1, 20, 8, requires_grad=True)
    queries = torch.randn(1, 3, 8, requires_grad=True)
    found = layer.prototypes(queries, pixels, torch.ones(1, 3, 20, dtype=torch.bool))
    gradients = torch.autograd.grad(found.sum(), [pixels, queries], allow_unused=True)
    assert gradients[1] is None
    chosen = [any(torch.equal(pixel, x) for x in found[0]) for pixel in pixels[0]]
    assert gradients[0][0].any(1).tolist() == chosen
    assert 0 < sum(chosen) <= 3


def test_predictions_and_the_maps_that_they_depend_on():
    pixels = make_pixels()
    predictor = make().train()
    predictions = predictor(pixels)
    assert len(predictions) == 5
    assert predictions[-1].mask_logits.shape == (2, 5, 16, 24)
    for i, prediction in enumerate(predictions):
        memory = [x.requires_grad_() for x in pixels.memory]
        gradients = torch.autograd.grad(
            predictor(pixels)[i].class_logits.square().sum(), memory, allow_unused=True
        )
        seen = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert seen == [level < i for level in range(3)]
        assert prediction.class_logits.shape == (2, 5, 4)
    (last,) = predictor.eval()(pixels)
    assert last.class_logits.isfinite().all()


def test_names_of_the_attention():
    names = {name for name, _ in PrototypeAttention(8, OPTIONS, "BN").named_parameters()}
    modules = ("feature_proj.to_query_3x3", "feature_proj.bn", "feature_proj.out", "query_proj.0")
    modules += ("query_proj.1", "proj", "final")
    assert names == {"alpha"} | {f"{m}.{x}" for m in modules for x in ("weight", "bias")}


def test_masks_pass_no_gradient():
    predictor, pixels = make(), make_pixels()
    pixels.mask_features.requires_grad_()
    last = predictor.train()(pixels)[-1]
    (grad,) = torch.autograd.grad(last.class_logits.sum(), pixels.mask_features, allow_unused=True)
    assert grad is None


def test_what_cannot_be_built_is_said():
    with pytest.raises(ValueError, match="3 attention heads do not divide 8 channels"):
        PrototypeAttention(8, TransformerOptions(num_heads=3), "BN")
    with pytest.raises(ValueError, match="DEC_LAYERS 1; .*at least 2"):
        make(num_layers=0)
