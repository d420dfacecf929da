"""EoMT: the published system's outputs and gradients, masks that are annealed, what cannot be."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec

from mask_former.backbone import Tokens
from mask_former.checkpoint.eomt import PAIRS, from_eomt
from mask_former.checkpoint.names import reverse, translate
from mask_former.engine import build_model, load_config
from mask_former.errors import UserError
from mask_former.head.eomt import EoMTHead
from mask_former.predictor.eomt import MaskAnnealing
from mask_former.structures import Prediction
from tests.reference import deterministic

GOLDEN = Path(__file__).parents[1] / "reference" / "golden" / "eomt_small.npz"


def eomt_cfg(**opts):
    values = {
        "MODEL.META_ARCHITECTURE": "EoMT",
        "MODEL.BACKBONE.NAME": "ViTEncoder",
        "MODEL.SEM_SEG_HEAD.NAME": "EoMTHead",
        "MODEL.VIT.NAME": "vit_small_patch14_reg4_dinov2",
        "MODEL.VIT.IMG_SIZE": 128,
        "MODEL.EOMT.NUM_BLOCKS": 3,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 20,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 20,
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.DEVICE": "cpu",
    }
    values |= {name.replace("__", "."): value for name, value in opts.items()}
    return load_config(opts=[x for pair in values.items() for x in pair])


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def model(golden):
    """The model of the golden file, with the weights that belong to its published names."""
    model = build_model(eomt_cfg())
    theirs, _ = translate(model.state_dict(), reverse(PAIRS))
    seed = int(golden["seed"])
    prefix = "network."
    filled = {
        name: deterministic.tensor_for(name.removeprefix(prefix), tensor.shape, seed)
        for name, tensor in theirs.items()
    }
    filled["network.attn_mask_probs"] = torch.ones(3)
    ours, _ = from_eomt(filled)
    model.load_state_dict(ours)
    return model


@pytest.fixture(scope="module")
def images(golden):
    size, seed = int(golden["image_size"]), int(golden["seed"])
    return [deterministic.image(size, size, seed + i) for i in range(2)]


def assert_close(found, expected, tolerance=5e-5):
    found = found.detach().cpu().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_every_prediction_and_gradient(golden, model, images, device):
    model = deepcopy(model).to(device).train()
    batch = model.preprocess([{"image": image} for image in images])
    predictions = model.predict(batch.tensor)
    assert len(predictions) == 4
    for i, prediction in enumerate(predictions):
        assert_close(prediction.class_logits, golden[f"class_logits/{i}"])
        assert_close(prediction.mask_logits[:, ::4, ::4, ::4], golden[f"mask_logits/{i}"])
    scalar = sum(
        p.class_logits.square().mean() + p.mask_logits.square().mean() for p in predictions
    )
    assert scalar.item() == pytest.approx(float(golden["scalar"]), rel=1e-4)
    scalar.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    theirs, _ = translate(gradients, reverse(PAIRS))
    norms = {name.removeprefix("network."): g.norm().item() for name, g in theirs.items()}
    expected = {k.removeprefix("grad_norm/"): golden[k] for k in golden if "grad_norm" in k}
    assert norms.keys() == expected.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(float(expected[name]), rel=1e-3), name


@torch.no_grad()
def test_inference_has_no_masks(golden, model, images):
    annealed = eomt_cfg(
        MODEL__EOMT__ANNEALING_START=[0, 0, 0], MODEL__EOMT__ANNEALING_END=[1, 1, 1]
    )
    unmasked = build_model(annealed).eval()
    unmasked.load_state_dict(model.state_dict())
    batch = unmasked.preprocess([{"image": image} for image in images])
    (prediction,) = unmasked.predict(batch.tensor)
    assert_close(prediction.class_logits, golden["class_logits_unmasked"])
    assert_close(prediction.mask_logits[:, ::4, ::4, ::4], golden["mask_logits_unmasked"])


def test_annealing_by_hand():
    """Between two iterations the share of what is left, to the power of 0.9."""
    annealing = MaskAnnealing([0, 10], [10, 30])
    assert annealing.probabilities(0) == [1, 1]
    assert annealing.probabilities(5) == pytest.approx([0.5**0.9, 1])
    assert annealing.probabilities(25) == pytest.approx([0, 0.25**0.9])
    assert annealing.probabilities(30) == [0, 0]


@pytest.fixture
def small():
    """The parts of a small model: 2 queries, a class token, and 2 x 2 patches."""
    shape = {"tokens": ShapeSpec(channels=4, stride=16)}
    head = EoMTHead(input_shape=shape, num_classes=3, num_queries=2, num_blocks=2)
    tokens = Tokens(torch.randn(3, 2 + 1 + 4, 4), (2, 2), None)
    return head, tokens


def test_queries_see_of_the_patches_what_their_masks_cover(small):
    head, tokens = small
    # The first channel is positive in the right half, the second one at a corner of a patch only;
    # resized to the patches its value there, the mean of four pixels in the middle, is 0.
    features = torch.zeros(3, 4, 8, 8)
    features[:, 0] = torch.tensor([-1.0] * 4 + [1.0] * 4)
    features[:, 1, 0, 0] = 9.0
    embeddings = torch.eye(4)[None, :2].repeat(3, 1, 1)
    prediction = Prediction(torch.zeros(3, 2, 4), features, embeddings)
    mask = head.predictor.attention_mask(0, prediction, tokens)
    expected = torch.ones(7, 7, dtype=torch.bool)
    expected[0, 3:] = torch.tensor([False, True, False, True])
    expected[1, 3:] = False
    assert mask.shape == (3, 1, 7, 7)
    assert (mask == expected).all()


def test_each_query_is_masked_with_the_probability_of_the_block(small):
    head, _ = small
    tokens = Tokens(torch.zeros(2000, 7, 4), (2, 2), None)
    prediction = Prediction(
        torch.zeros(2000, 2, 4), -torch.ones(2000, 4, 8, 8), torch.ones(2000, 2, 4)
    )
    head.predictor.attn_mask_probs.copy_(torch.tensor([0.3, 0.0]))
    mask = head.predictor.attention_mask(0, prediction, tokens)[:, 0, :2, 3:]
    # A query sees all patches, or none; independently of the other query of its image.
    masked = ~mask.any(-1)
    assert torch.equal(masked, ~mask.all(-1))
    assert masked.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert masked.all(-1).float().mean().item() == pytest.approx(0.09, abs=0.03)
    assert head.predictor.attention_mask(1, prediction, tokens).all()


def test_a_training_without_annealing_masks_all_whatever_its_weights_were_trained_with(small):
    head, _ = small
    head.predictor.attn_mask_probs.zero_()  # as at the end of an annealing
    head.at_iteration(7)
    assert head.predictor.attn_mask_probs.tolist() == [1, 1]


def test_weights_whose_inference_would_draw_lots_are_named(small, caplog):
    head, _ = small
    weights = head.state_dict() | {"predictor.attn_mask_probs": torch.tensor([0.25, 1])}
    for annealing, number in ((MaskAnnealing([0, 0], [1, 1]), 0), (None, 1)):
        head.annealing = annealing
        head.load_state_dict(weights)
        assert caplog.text.count("probabilities [0.25, 1.0], at random") == number


def test_without_annealing_masks_stay_in_inference(golden, model, images):
    """Of the golden file's predictions the last one, with masks in all of its blocks."""
    model.eval()
    batch = model.preprocess([{"image": image} for image in images])
    with torch.no_grad():
        (prediction,) = model.predict(batch.tensor)
    assert_close(prediction.class_logits, golden["class_logits/3"])


def test_images_are_padded_in_black(model):
    images = model.preprocess([{"image": torch.full((3, 20, 30), 255, dtype=torch.uint8)}])
    assert images.image_sizes == [(20, 30)] and images.tensor.shape == (1, 3, 32, 32)
    mean, std = model.pixel_mean.flatten(), model.pixel_std.flatten()
    torch.testing.assert_close(images.tensor[0, :, 0, 30], -mean / std)
    torch.testing.assert_close(images.tensor[0, :, 19, 29], (255 - mean) / std)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_one_graph(training):
    """For a compiler, also with masks of which some are annealed."""
    torch.compiler.reset()
    options = {"MODEL__VIT__NAME": "test_vit", "MODEL__VIT__IMG_SIZE": 64}
    network = build_model(eomt_cfg(**options)).train(training)
    network.sem_seg_head.predictor.attn_mask_probs.copy_(torch.tensor([0.0, 0.0, 1.0]))

    def predict(images):
        return [(p.class_logits, p.mask_logits) for p in network.predict(images)]

    images = torch.randn(1, 3, 64, 96)
    with torch.set_grad_enabled(training):
        captured = torch.compile(predict, backend="eager", fullgraph=True)
        torch.testing.assert_close(captured(images), predict(images))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL__EOMT__NUM_BLOCKS": 13}, "NUM_BLOCKS is 13, but the encoder has 12"),
        ({"MODEL__EOMT__ANNEALING_START": [0, 1, 2]}, "every block needs a start, and an end"),
        (
            {"MODEL__EOMT__ANNEALING_START": [4], "MODEL__EOMT__ANNEALING_END": [4]},
            r"ANNEALING_START is \[4\].*end after it",
        ),
        (
            {"MODEL__EOMT__ANNEALING_START": [4], "MODEL__EOMT__ANNEALING_END": [5]},
            "have 1 numbers, but MODEL.EOMT.NUM_BLOCKS is 3",
        ),
        ({"MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": 0}, "must be at least 1"),
        ({"MODEL__MASK_FORMER__SIZE_DIVISIBILITY": 40}, "is 40, but the patches.*16 pixels wide"),
        ({"MODEL__MASK_FORMER__SIZE_DIVISIBILITY": 0}, "SIZE_DIVISIBILITY is 0"),
        ({"MODEL__BACKBONE__NAME": "ViTPyramid"}, "maps res2, res3.*BACKBONE.NAME to ViTEncoder"),
        ({"MODEL__EOMT__ANNEALING_END": ["soon"]}, "whole numbers, not 'soon'"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        build_model(eomt_cfg(**options))
