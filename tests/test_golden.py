"""The published system's outputs, losses, gradients and matches, from deterministic weights."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask_former import inference
from mask_former.engine import load_config

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
MODELS = ["ade20k150_maskformer_R50", "ade20k150_per_pixel_plus_R50", "coco_panoptic_swin_tiny"]
# The thresholds of the golden panoptic maps.
PANOPTIC = ["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.02"]
PANOPTIC += ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.3"]
IGNORE = 255
# The golden figures are float32. The gradient of a ReLU jumps where rounding decides the sign of
# its input, and this model has such units: the figures are this far from those of exact sums.
GRADIENT_TOLERANCE = {"ade20k150_per_pixel_plus_R50": 4e-4}


def _load_deterministic():
    spec = importlib.util.spec_from_file_location("deterministic", REFERENCE / "deterministic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


deterministic = _load_deterministic()


def build_golden_model(golden):
    """The model of a golden file with its weights, without dropout."""
    opts = [*json.loads(str(golden["opts"])), *PANOPTIC, "MODEL.MASK_FORMER.DROPOUT", "0.0"]
    opts += ["MODEL.SWIN.DROP_PATH_RATE", "0.0", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    model = build_model(load_config(str(ROOT / "configs" / str(golden["config"])), opts))
    deterministic.fill(model, int(golden["seed"]))
    return model


def golden_inputs(golden, num_classes: int):
    inputs = []
    for i, (h, w) in enumerate(golden["sizes"].tolist()):
        seed = int(golden["seed"]) + i
        labels, masks = deterministic.targets(h, w, num_classes, 5 + 2 * i, seed)
        label_map = (labels[:, None, None] * masks).sum(0)
        label_map[:8, :8] = IGNORE
        inputs.append(
            {
                "image": deterministic.image(h, w, seed),
                "instances": Instances((h, w), gt_classes=labels, gt_masks=BitMasks(masks)),
                "sem_seg": label_map,
                "height": 2 * h,
                "width": 2 * w,
            }
        )
    return inputs


@pytest.fixture(scope="module", params=MODELS)
def run(request):
    """One training forward and backward, and one inference, of a golden model.

    The training is in double precision, so that our side of the gradients has no rounding that
    depends on the processor and the number of threads.
    """
    golden = np.load(REFERENCE / "golden" / f"{request.param}.npz")
    model = build_golden_model(golden)
    inputs = golden_inputs(golden, num_classes=len(golden["sem_seg/0"]))
    seen = SimpleNamespace(name=request.param, golden=golden, matching=None)
    if hasattr(model, "criterion"):
        matcher = model.criterion.matcher

        def observed(*args):
            seen.matching = matcher(*args)
            return seen.matching

        model.criterion.matcher = observed
        model.sem_seg_head.register_forward_hook(
            lambda _, __, layers: setattr(seen, "prediction", layers[-1])
        )
    model.double().train()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    seen.losses = model(inputs)
    sum(seen.losses.values()).backward()
    seen.grad_norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    model.float().eval()
    with torch.no_grad():
        seen.results = model(inputs)
    return seen


def assert_close(actual, expected, tolerance):
    """Largest difference relative to the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    actual = np.asarray(actual.detach(), dtype=np.float64)
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def test_losses(run):
    expected = {k[5:]: run.golden[k] for k in run.golden.files if k.startswith("loss/")}
    assert run.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert run.losses[name].item() == pytest.approx(float(value), rel=1e-4), name


def test_gradient_norms(run):
    golden = run.golden
    expected = {k[10:]: float(golden[k]) for k in golden.files if k.startswith("grad_norm/")}
    assert run.grad_norms.keys() == expected.keys()
    tolerance = GRADIENT_TOLERANCE.get(run.name, 1e-4)
    scale = max(expected.values())
    for name, value in expected.items():
        assert run.grad_norms[name] == pytest.approx(value, rel=tolerance, abs=1e-7 * scale), name


def test_matching_of_the_last_layer(run):
    if run.matching is None:
        assert not any(key.startswith("match/") for key in run.golden.files)
        return
    last = run.matching.layer == run.matching.layer.max()
    offset = 0
    for i in range(2):
        query, segment = run.golden[f"match/{i}"]
        rows = last & (run.matching.image == i)
        assert run.matching.query[rows].tolist() == query.tolist()
        assert (run.matching.segment[rows] - offset).tolist() == segment.tolist()
        offset += len(segment)


def test_outputs(run):
    golden = run.golden
    if "pred_logits" in golden:
        assert_close(run.prediction.class_logits, golden["pred_logits"], 1e-5)
        assert_close(run.prediction.mask_logits[:, ::10, ::4, ::4], golden["pred_masks"], 1e-5)
    for i, result in enumerate(run.results):
        assert_close(result["sem_seg"][:, ::16, ::16], golden[f"sem_seg/{i}"], 1e-5)


def test_panoptic_segmentation(run):
    for i, result in enumerate(run.results):
        assert ("panoptic_seg" in result) == (f"panoptic/{i}" in run.golden)
        if "panoptic_seg" in result:
            panoptic, segments = result["panoptic_seg"]
            # Equal but for pixels where two queries' scores differ by less than the outputs do.
            assert (panoptic.numpy() != run.golden[f"panoptic/{i}"]).mean() < 3e-4
            assert segments == json.loads(str(run.golden[f"segments/{i}"]))


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
