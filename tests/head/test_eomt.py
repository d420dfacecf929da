"""EoMT: the published system's outputs and gradients, masks that are annealed, what cannot be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mask_former.checkpoint.eomt import PAIRS, from_eomt
from mask_former.checkpoint.names import reverse, translate
from mask_former.engine import build_model, load_config
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
    found = found.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_every_prediction_and_gradient(golden, model, images):
    model.train().zero_grad()
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
