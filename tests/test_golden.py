"""The published system's outputs, losses, gradients and matches, from deterministic weights."""

import importlib.util
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask_former import inference
from mask_former.engine import load_config

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
# Golden file, and MODEL.PUBLISHED_ROUNDING, which SemanticSegmentor does not know.
MODELS = [
    ("ade20k150_maskformer_R50", True),
    ("ade20k150_maskformer_R50", False),
    ("ade20k150_per_pixel_plus_R50", True),
    ("coco_panoptic_swin_tiny", True),
    ("coco_panoptic_swin_tiny", False),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# The thresholds of the golden panoptic maps.
PANOPTIC = ["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.02"]
PANOPTIC += ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.3"]
IGNORE = 255
# The checksum of `rounds_alike` where the golden files were made.
ROUNDING = 590991171
# How far float32 is from the golden files where sums are rounded otherwise: by another processor,
# or in another order. The gradient of a ReLU jumps where rounding decides the sign of its input;
# in the per-pixel model a single such unit counts.
OUTPUT_TOLERANCE = 4e-5
GRADIENT_TOLERANCE = {"ade20k150_per_pixel_plus_R50": 3e-2}
PIXEL_TOLERANCE = 5e-4
# What a GPU is allowed of all this, as many times. No GPU was at hand to find out.
GPU_SLACK = 10


def _load_deterministic():
    spec = importlib.util.spec_from_file_location("deterministic", REFERENCE / "deterministic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


deterministic = _load_deterministic()


@pytest.fixture(scope="module")
def two_threads():
    """As the golden files were made: from two threads on sums are split alike, with one not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rounds_alike(two_threads):
    """Whether processor and PyTorch round as those that made the golden files: then all bits of
    the predictions must be equal."""
    x = deterministic.tensor_for("x", (2, 64, 24, 32))
    x = F.conv2d(x, deterministic.tensor_for("kernels", (128, 64, 3, 3)), padding=1)
    x = F.layer_norm(x.flatten(2).transpose(1, 2), (128,))
    x = F.linear(x.contiguous(), deterministic.tensor_for("weights", (96, 128))).softmax(-1)
    return zlib.crc32(x.numpy().tobytes()) == ROUNDING


def build_golden_model(golden, published_rounding, device="cpu"):
    """The model of a golden file with its weights, without dropout."""
    opts = [*json.loads(str(golden["opts"])), *PANOPTIC, "MODEL.MASK_FORMER.DROPOUT", "0.0"]
    opts += ["MODEL.SWIN.DROP_PATH_RATE", "0.0", "MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    opts += ["MODEL.PUBLISHED_ROUNDING", str(published_rounding)]
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


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    """On a GPU in float32, which is not what PyTorch means by that."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield request.param
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: f"{model[0]}-{model[1]}")
def run(request, rounds_alike, device):
    """One training forward and backward, and one inference, of a golden model in float32."""
    name, published_rounding = request.param
    golden = np.load(REFERENCE / "golden" / f"{name}.npz")
    model = build_golden_model(golden, published_rounding, device)
    inputs = golden_inputs(golden, num_classes=len(golden["sem_seg/0"]))
    exact = published_rounding and rounds_alike and device == "cpu"
    seen = SimpleNamespace(name=name, golden=golden, exact=exact, matching=None)
    seen.slack = 1 if device == "cpu" else GPU_SLACK
    if hasattr(model, "criterion"):
        matcher = model.criterion.matcher

        def observed(*args):
            seen.matching = matcher(*args)
            return seen.matching

        model.criterion.matcher = observed
        model.sem_seg_head.register_forward_hook(
            lambda _, __, layers: setattr(seen, "prediction", layers[-1])
        )
    model.train()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    seen.losses = model(inputs)
    sum(seen.losses.values()).backward()
    seen.grad_norms = {name: p.grad.double().norm().item() for name, p in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        seen.results = model(inputs)
    return seen


def assert_close(actual, expected, tolerance):
    """Largest difference relative to the largest value; a tolerance of 0: the same bits."""
    expected = np.asarray(expected, dtype=np.float64)
    actual = np.asarray(actual.detach().cpu(), dtype=np.float64)
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
    tolerance = 1e-4 if run.exact else run.slack * GRADIENT_TOLERANCE.get(run.name, 1e-4)
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
    tolerance = 0 if run.exact else run.slack * OUTPUT_TOLERANCE
    if "pred_logits" in golden:
        assert_close(run.prediction.class_logits, golden["pred_logits"], tolerance)
        assert_close(run.prediction.mask_logits[:, ::10, ::4, ::4], golden["pred_masks"], tolerance)
    for i, result in enumerate(run.results):
        assert_close(result["sem_seg"][:, ::16, ::16], golden[f"sem_seg/{i}"], max(tolerance, 1e-6))


def test_panoptic_segmentation(run):
    for i, result in enumerate(run.results):
        assert ("panoptic_seg" in result) == (f"panoptic/{i}" in run.golden)
        if "panoptic_seg" in result:
            panoptic, segments = result["panoptic_seg"]
            differ = (panoptic.cpu().numpy() != run.golden[f"panoptic/{i}"]).mean()
            # Pixels where two queries' scores differ by less than the outputs do.
            assert differ <= (0 if run.exact else run.slack * PIXEL_TOLERANCE)
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
