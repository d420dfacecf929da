"""The published Segmenter's logits, losses and gradients, from deterministic weights."""

import numpy as np
import pytest
import torch

from mask_former.checkpoint.segmenter import from_segmenter
from mask_former.engine import build_model, load_config
from tests.checkpoint.segmenter_files import published_shapes
from tests.test_golden import LOSSES, OUTPUTS, REFERENCE, ROOT, deterministic

GRADIENTS = 1e-3
# Recipe, size and decoder layers; the golden files have another number of classes and image size.
MODELS = {
    "small_mask": ("seg_small_mask", "small", 2),
    "tiny_linear": ("seg_tiny_mask", "tiny", 0),
}


@pytest.fixture(scope="module", params=MODELS)
def golden(request):
    return np.load(REFERENCE / "golden" / f"segmenter_{request.param}.npz")


@pytest.fixture(scope="module")
def model(golden, device):
    """The model of a golden file with its weights, without dropout."""
    recipe, size, layers = MODELS[str(golden["name"])]
    classes, side = int(golden["num_classes"]), int(golden["image_size"])
    opts = {
        "MODEL.DEVICE": device,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": classes,
        "MODEL.SEGMENTER.DECODER_NAME": "MaskTransformer" if layers else "LinearDecoder",
        "MODEL.SEGMENTER.DROPOUT": 0.0,
        "MODEL.VIT.IMG_SIZE": side,
        "MODEL.VIT.PRETRAINED": False,
        "MODEL.VIT.DROP_PATH_RATE": 0.0,
    }
    opts = [part for option in opts.items() for part in option]
    config = ROOT / "configs" / "segmenter" / "ade20k" / f"{recipe}.yaml"
    model = build_model(load_config(str(config), opts))
    shapes = published_shapes(size, classes, side, decoder_layers=layers)
    seed = int(golden["seed"])
    weights = {n: deterministic.tensor_for(n, shape, seed) for n, shape in shapes.items()}
    model.load_state_dict(from_segmenter(weights)[0])
    return model


def sample(golden, i):
    (height, width), seed = golden["sizes"].tolist()[i], int(golden["seed"])
    if height % 8 or width % 8:
        image = deterministic.image(128, 128, seed + i)[:, :height, :width]
    else:
        image = deterministic.image(height, width, seed + i)
    random = np.random.default_rng([seed, i])
    labels = random.integers(0, int(golden["num_classes"]), (1, height, width))[0]
    return {"image": image, "sem_seg": torch.from_numpy(labels)}


@pytest.mark.parametrize("i", [0, 1])
@torch.no_grad()
def test_logits(golden, model, i):
    expected = torch.from_numpy(golden[f"logits/{i}"])
    (result,) = model.eval()([{"image": sample(golden, i)["image"]}])
    error = (result["sem_seg"][:, ::4, ::4].cpu() - expected).abs().max() / expected.abs().max()
    assert error < OUTPUTS


@pytest.mark.parametrize("i", [0, 1])
def test_losses_and_gradients(golden, model, i):
    model.train().zero_grad()
    loss = model([sample(golden, i)])["loss_sem_seg"]
    assert loss.item() == pytest.approx(float(golden[f"loss/{i}"]), rel=LOSSES)
    loss.backward()
    prefix = f"grad_norm/{i}/"
    theirs = {k[len(prefix) :]: torch.from_numpy(golden[k]) for k in golden if k.startswith(prefix)}
    expected, _ = from_segmenter(theirs)
    found = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert found == pytest.approx({k: v.item() for k, v in expected.items()}, rel=GRADIENTS)
