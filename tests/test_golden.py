"""The published system's outputs, losses, gradients and matches, from deterministic weights."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

import mask_former  # noqa: F401
from mask_former import inference
from mask_former.config import add_mask_former_config

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"


def _load_deterministic():
    spec = importlib.util.spec_from_file_location("deterministic", REFERENCE / "deterministic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


deterministic = _load_deterministic()


def build_golden_model(config: str, seed: int, opts: list = ()):
    """The model of a recipe with the golden weights, without dropout."""
    cfg = get_cfg()
    add_mask_former_config(cfg)
    cfg.merge_from_file(ROOT / "configs" / config)
    cfg.merge_from_list(list(opts))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.0
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.0
    model = build_model(cfg)
    deterministic.fill(model, seed)
    return model


def golden_inputs(golden, num_classes: int):
    inputs = []
    for i, (h, w) in enumerate(golden["sizes"].tolist()):
        seed = int(golden["seed"]) + i
        labels, masks = deterministic.targets(h, w, num_classes, 5 + 2 * i, seed)
        instances = Instances((h, w), gt_classes=labels, gt_masks=BitMasks(masks))
        inputs.append(
            {
                "image": deterministic.image(h, w, seed),
                "instances": instances,
                "height": 2 * h,
                "width": 2 * w,
            }
        )
    return inputs


@pytest.fixture(scope="module")
def run():
    """One training forward and backward and one inference of the golden ADE20K model."""
    golden = np.load(REFERENCE / "golden" / "ade20k150_maskformer_R50.npz")
    model = build_golden_model(str(golden["config"]), int(golden["seed"]))
    inputs = golden_inputs(golden, num_classes=150)
    seen = {}
    model.sem_seg_head.register_forward_hook(
        lambda _, __, out: seen.update({"training" if model.training else "eval": out})
    )
    matcher, matchings = model.criterion.matcher, []
    model.criterion.matcher = lambda *args: matchings.append(matcher(*args)) or matchings[-1]
    model.train()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    losses = model(inputs)
    sum(losses.values()).backward()
    model.eval()
    with torch.no_grad():
        results = model(inputs)
    return golden, model, losses, matchings[0], seen["eval"][-1], results


def assert_close(actual, expected, tolerance):
    """Largest difference relative to the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    actual = np.asarray(actual.detach(), dtype=np.float64)
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def test_losses(run):
    golden, _, losses, *_ = run
    expected = {k[5:]: golden[k] for k in golden.files if k.startswith("loss/")}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(float(value), rel=1e-4), name


def test_gradient_norms(run):
    golden, model, *_ = run
    norms = {name: p.grad.double().norm().item() for name, p in model.named_parameters()}
    expected = {k[10:]: float(golden[k]) for k in golden.files if k.startswith("grad_norm/")}
    assert norms.keys() == expected.keys()
    scale = max(expected.values())
    for name, value in expected.items():
        assert norms[name] == pytest.approx(value, rel=1e-4, abs=1e-7 * scale), name


def test_matching_of_the_last_layer(run):
    golden, _, _, matching, *_ = run
    last = matching.layer == matching.layer.max()
    offset = 0
    for i in range(2):
        query, segment = golden[f"match/{i}"]
        rows = last & (matching.image == i)
        assert matching.query[rows].tolist() == query.tolist()
        assert (matching.segment[rows] - offset).tolist() == segment.tolist()
        offset += len(segment)


def test_outputs(run):
    golden, _, _, _, prediction, results = run
    assert_close(prediction.class_logits, golden["pred_logits"], 1e-5)
    assert_close(prediction.mask_logits[:, ::10, ::4, ::4], golden["pred_masks"], 1e-5)
    for i, result in enumerate(results):
        assert_close(result["sem_seg"][:, ::16, ::16], golden[f"sem_seg/{i}"], 1e-5)


@pytest.mark.parametrize("case", range(3))
def test_panoptic_merge(case):
    golden = np.load(REFERENCE / "golden" / "panoptic_merge.npz")
    height, width = golden["size"].tolist()
    cy, cx, r = torch.from_numpy(golden["mask_params"])[:, :, None, None]
    y, x = torch.arange(height)[:, None], torch.arange(width)
    masks = ((r - torch.hypot(y - cy, x - cx)) / 4).float()
    object_threshold, overlap_threshold = golden[f"thresholds/{case}"].tolist()
    classes = torch.from_numpy(golden["class_logits"])
    keep, scores, labels = inference.confident_queries(classes, object_threshold)
    panoptic, segments = inference.panoptic_inference(
        scores,
        labels,
        masks[keep],
        thing_classes=range(int(golden["num_things"])),
        overlap_threshold=overlap_threshold,
    )
    assert np.array_equal(panoptic.numpy(), golden[f"panoptic/{case}"])
    assert segments == json.loads(str(golden[f"segments/{case}"]))
    assert_close(
        inference.semantic_inference(classes, masks)[:, ::8, ::8], golden["semantic"], 1e-5
    )
