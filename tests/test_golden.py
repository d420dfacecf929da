"""The published system's outputs, losses, gradients and matches, from deterministic weights."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from mask_former import inference
from mask_former.engine import build_model, load_config
from mask_former.losses.points import PointSampling

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
MODELS = ["ade20k150_maskformer_R50", "ade20k150_per_pixel_plus_R50", "coco_panoptic_swin_tiny"]
MODELS += ["m2f_ade20k_semantic_R50", "m2f_coco_instance_R50", "m2f_coco_panoptic_swin_tiny"]
MODELS += ["pem_cityscapes_panoptic_R50"]
# The thresholds of the golden panoptic maps, where a file has none of its own.
PANOPTIC = ["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.02"]
PANOPTIC += ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.3"]
IGNORE = 255
# How far float32 is from the golden files where sums are rounded otherwise.
OUTPUTS = 5e-5  # of the largest value
# PEM's file is 4.4e-5 away from what float64 gives, differs by 5e-5 with the number of threads, and
# by 1.03e-4 on a GPU (H100).
OUTPUTS_PEM = {"cpu": 1e-4, "cuda": 2e-4}
LOSSES = 1e-4
# Of float64. In float32 single ReLUs flip where sums are rounded otherwise, which moves the norms
# of most of MaskFormer's parameters by 1e-2 (one thread, AMD EPYC). The files agree with float64.
GRADIENTS = 1e-3
GRADIENTS_PEM = 2e-3  # a single one is 1.05e-3 off
TIE = 1e-4  # pixels whose two best scores differ by less may go to either
BORDER = 1e-4  # of an image's pixels, those of a mask's border


def _load_deterministic():
    spec = importlib.util.spec_from_file_location("deterministic", REFERENCE / "deterministic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


deterministic = _load_deterministic()


@dataclass(frozen=True)
class GivenPoints(PointSampling):
    """The points of Mask2Former's golden files instead of random ones, the same for all masks."""

    seed: int = 0

    def uniform(self, device):
        return deterministic.points(self.num_points, self.seed).to(device)

    def uncertain(self, masks):
        points = deterministic.points(self.num_points, self.seed + 1).to(masks.device)
        return points.expand(len(masks), -1, -1)


def build_golden_model(golden, device="cpu"):
    """The model of a golden file with its weights, without dropout."""
    opts = [*PANOPTIC, *json.loads(str(golden["opts"])), "MODEL.MASK_FORMER.DROPOUT", "0.0"]
    opts += ["MODEL.SWIN.DROP_PATH_RATE", "0.0", "MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    model = build_model(load_config(str(ROOT / "configs" / str(golden["config"])), opts))
    deterministic.fill(model, int(golden["seed"]))
    criterion = getattr(model, "criterion", None)
    if isinstance(getattr(criterion, "where", None), PointSampling):
        points = GivenPoints(criterion.where.num_points, seed=int(golden["seed"]))
        criterion.where = criterion.matcher.where = points
    return model


def num_classes(golden):
    if "pred_logits" in golden:
        return golden["pred_logits"].shape[-1] - 1
    return len(golden["sem_seg/0"])


def is_pem(golden):
    return str(golden["config"]).startswith("pem/")


def golden_inputs(golden, num_classes):
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
def run(request, device):
    """Losses, matches and results of a golden model in float32."""
    golden = np.load(REFERENCE / "golden" / f"{request.param}.npz")
    model = build_golden_model(golden, device)
    inputs = golden_inputs(golden, num_classes=num_classes(golden))
    seen = SimpleNamespace(golden=golden, device=device, matching=None, images=inputs)
    if hasattr(model, "criterion"):
        matcher = model.criterion.matcher

        def observed(*args):
            seen.matching = matcher(*args)
            return seen.matching

        model.criterion.matcher = observed
        model.sem_seg_head.register_forward_hook(
            lambda _, __, layers: setattr(seen, "prediction", layers[-1])
        )
        seen.padded = tuple(model.preprocess(inputs).tensor.shape[-2:])
    with torch.no_grad():
        seen.losses = train_mode(model)(inputs)
        seen.results = model.eval()(inputs)
    return seen


def train_mode(model):
    """Training, with the statistics of batch norms as they are."""
    model.train()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    return model


def assert_close(actual, expected, tolerance):
    """Largest difference, relative to the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    actual = np.asarray(actual.detach().cpu(), dtype=np.float64)
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def test_losses(run):
    expected = {k[5:]: run.golden[k] for k in run.golden.files if k.startswith("loss/")}
    assert run.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert run.losses[name].item() == pytest.approx(float(value), rel=LOSSES), name


def test_gradient_norms(run):
    golden, model = run.golden, train_mode(build_golden_model(run.golden, run.device).double())
    sum(model(run.images).values()).backward()
    found = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    expected = {k[10:]: float(golden[k]) for k in golden.files if k.startswith("grad_norm/")}
    least = 1e-4 * max(expected.values())  # what is 0 but for rounding has no relative error
    relative = GRADIENTS_PEM if is_pem(golden) else GRADIENTS
    assert found == pytest.approx(expected, rel=relative, abs=relative * least)


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
    tolerance = OUTPUTS_PEM[run.device] if is_pem(golden) else OUTPUTS
    if "pred_logits" in golden:
        assert_close(run.prediction.class_logits, golden["pred_logits"], tolerance)
        assert_close(run.prediction.mask_logits[:, ::10, ::4, ::4], golden["pred_masks"], tolerance)
    for i, result in enumerate(run.results):
        assert ("sem_seg" in result) == (f"sem_seg/{i}" in golden)
        if "sem_seg" in result:
            assert_close(result["sem_seg"][:, ::16, ::16], golden[f"sem_seg/{i}"], tolerance)


def test_panoptic_segmentation(run):
    for i, result in enumerate(run.results):
        assert ("panoptic_seg" in result) == (f"panoptic/{i}" in run.golden)
        if "panoptic_seg" in result:
            panoptic, segments = result["panoptic_seg"]
            differ = panoptic.cpu().numpy() != run.golden[f"panoptic/{i}"]
            assert not (differ & ~ties(run, i)).any()
            assert segments == json.loads(str(run.golden[f"segments/{i}"]))


def test_instances(run):
    """By falling score; where scores are as good as equal, in any order."""
    for i, result in enumerate(run.results):
        assert ("instances" in result) == (f"instance_scores/{i}" in run.golden)
        if "instances" not in result:
            continue
        instances = result["instances"].to("cpu")
        scores, classes, areas = (
            run.golden[f"instance_{name}/{i}"] for name in ("scores", "classes", "areas")
        )
        assert len(instances) == len(scores)
        if len(scores):
            assert_close(instances.scores, scores, OUTPUTS)
        assert sorted(instances.pred_classes.tolist()) == sorted(classes.tolist())
        actual = np.sort(instances.pred_masks.flatten(1).sum(1).numpy())
        pixels = np.prod(instances.image_size)
        assert np.abs(actual - np.sort(areas)).max(initial=0) <= BORDER * pixels


def ties(run, i):
    """The pixels of image `i` whose two best scores are as good as equal, or whose probability is
    as good as 0.5, bool (H, W)."""
    classes, masks = (
        x[i].float().cpu() for x in (run.prediction.class_logits, run.prediction.mask_logits)
    )
    keep, scores, _ = inference.confident_queries(classes, float(PANOPTIC[1]))
    image = run.images[i]
    size = tuple(image["image"].shape[-2:])
    masks = inference.scale_masks(
        masks[keep], inference.Sizes(run.padded, size, (image["height"], image["width"]))
    )
    best, query = (masks.sigmoid() * scores[:, None, None]).topk(2, 0)
    undecided = (masks.gather(0, query[:1])[0].sigmoid() - 0.5).abs() < TIE
    return ((best[0] - best[1] < TIE) | undecided).numpy()


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
