"""Windows around the models of semantic segmentation: evaluation, prediction, augmentation."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask_former.engine import DefaultPredictor, Trainer, argument_parser, check_run
from mask_former.engine.sliding_window import SlidingWindowSegmentor, with_sliding_window
from mask_former.engine.tta import with_test_time_augmentation
from mask_former.errors import NonFiniteError, UserError
from tests.engine.tiny import run_here, tiny_cfg

WINDOWS = {"TEST__WINDOW__SIZE": 64, "TEST__WINDOW__STRIDE": 32}
SEMANTIC = {
    "DATASETS__TRAIN": ("shapes_train_semantic",),
    "DATASETS__TEST": ("shapes_val_semantic",),
    "INPUT__DATASET_MAPPER_NAME": "mask_former_semantic",
    "MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False,
}
KINDS = {
    "MaskFormer": {},
    "SemanticSegmentor": {
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__SEM_SEG_HEAD__NAME": "PerPixelBaselineHead",
    },
}


def make(kind, output="unused", **opts):
    torch.manual_seed(0)
    cfg = tiny_cfg(output, **SEMANTIC, **KINDS[kind], **{**WINDOWS, **opts})
    return cfg, Trainer.build_model(cfg).eval()


def random_image(height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def by_hand(model, image, size):
    """Scores of an image of 64 x 96, which two windows of 64 cover, and overlap in 32 columns."""
    left, right = (
        model([{"image": part}])[0]["sem_seg"] for part in (image[..., :64], image[..., 32:])
    )
    middle = (left[..., 32:] + right[..., :32]) / 2
    scores = torch.cat((left[..., :32], middle, right[..., 32:]), -1)
    return F.interpolate(scores[None], size=size, mode="bilinear")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_averaged_then_scaled(kind):
    cfg, model = make(kind)
    image = random_image(64, 96)
    windowed = with_sliding_window(cfg, model)
    results = windowed([{"image": image, "height": 100, "width": 130}, {"image": image}])
    for result, size in zip(results, [(100, 130), (64, 96)], strict=True):
        torch.testing.assert_close(result["sem_seg"], by_hand(model, image, size))
    with torch.no_grad():
        whole = model([{"image": image}])[0]["sem_seg"]
    assert not torch.allclose(results[1]["sem_seg"], whole, rtol=1e-2)


def test_labels_instead_of_scores():
    cfg, model = make("MaskFormer")
    windowed, inputs = with_sliding_window(cfg, model), [{"image": random_image(50, 70)}]
    expected = windowed(inputs)[0]["sem_seg"].argmax(0)
    model.inference = replace(model.inference, semantic_labels=True)
    assert torch.equal(windowed(inputs)[0]["sem_seg"], expected)


def test_predictions_that_are_not_finite_make_no_label_map():
    cfg, model = make("MaskFormer", TEST__AUG__MIN_SIZES=(64,))
    model.inference = replace(model.inference, semantic_labels=True)
    nn.init.constant_(model.sem_seg_head.predictor.mask_embed.layers[-1].bias, float("nan"))
    inputs = [{"image": random_image(64, 96), "file_name": "a.jpg"}]
    with pytest.raises(NonFiniteError, match=r"\['a.jpg'"):
        with_sliding_window(cfg, model)(inputs)
    for size in (64, 0):
        cfg.TEST.WINDOW.SIZE = size
        with pytest.raises(NonFiniteError, match=r"\['a.jpg'"):
            with_test_time_augmentation(cfg, model)(inputs)


def _with_infinity(_model, _inputs, results):
    results[0]["sem_seg"][1] = -math.inf


@pytest.mark.parametrize("probabilities", [False, True])
def test_scores_that_are_not_finite_are_not_averaged(probabilities):
    """The softmax makes a probability of 0 of minus infinity."""
    cfg, model = make("SemanticSegmentor", TEST__AUG__MIN_SIZES=(64,))
    cfg.TEST.AUG.PROBABILITIES = probabilities
    model.register_forward_hook(_with_infinity)
    inputs = [{"image": random_image(64, 96), "file_name": "a.jpg"}]
    for size in (64, 0):
        cfg.TEST.WINDOW.SIZE = size
        with pytest.raises(NonFiniteError, match=r"\['a.jpg'"):
            with_test_time_augmentation(cfg, model)(inputs)


def test_without_windows_a_model_stays_as_it_is():
    cfg, model = make("MaskFormer")
    windowed = with_sliding_window(cfg, model)
    assert isinstance(windowed, SlidingWindowSegmentor)
    assert with_sliding_window(cfg, windowed) is windowed
    cfg.TEST.WINDOW.SIZE = 0
    assert with_sliding_window(cfg, model) is model


@pytest.mark.parametrize("labels", [False, True])
def test_augmentation_looks_at_every_view_in_windows(labels):
    cfg, model = make("MaskFormer", TEST__AUG__MIN_SIZES=(64,))
    model.inference = replace(model.inference, semantic_labels=labels)
    image = random_image(64, 96)
    (result,) = with_test_time_augmentation(cfg, model)([{"image": image}])
    model.inference = replace(model.inference, semantic_labels=False)
    views = [by_hand(model, image, (64, 96)), by_hand(model, image.flip(-1), (64, 96)).flip(-1)]
    expected = sum(views) / 2
    torch.testing.assert_close(result["sem_seg"], expected.argmax(0) if labels else expected)


def test_augmentation_averages_probabilities_where_the_config_says_so():
    cfg, model = make("SemanticSegmentor", TEST__AUG__MIN_SIZES=(64,))
    cfg.TEST.AUG.PROBABILITIES = True
    image = random_image(64, 96)
    (result,) = with_test_time_augmentation(cfg, model)([{"image": image}])
    views = [by_hand(model, image, (64, 96)), by_hand(model, image.flip(-1), (64, 96)).flip(-1)]
    torch.testing.assert_close(result["sem_seg"], sum(view.softmax(0) for view in views) / 2)


def test_evaluation_and_predictor_use_them(tmp_path, shapes_root, monkeypatch):
    seen = []
    original = SlidingWindowSegmentor.forward

    def forward(self, inputs):
        seen.append(self.training)
        return original(self, inputs)

    monkeypatch.setattr(SlidingWindowSegmentor, "forward", forward)
    cfg, model = make("MaskFormer", tmp_path / "run", SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=1)
    record = run_here(cfg)
    assert len(record["losses"]) == 2  # the model is in training mode again after the first
    assert 0 <= record["metrics"]["sem_seg"]["mIoU"] <= 100
    assert seen and not any(seen)

    cfg.MODEL.WEIGHTS = str(tmp_path / "run" / "model_final.pth")
    cfg.INPUT.MIN_SIZE_TEST = 0
    image = random_image(64, 96)
    before = len(seen)
    result = DefaultPredictor(cfg)(image.permute(1, 2, 0).flip(-1).numpy())
    assert len(seen) == before + 1 and result["sem_seg"].shape == (10, 64, 96)


def test_a_training_whose_evaluation_would_fail_does_not_start(tmp_path, shapes_root):
    cfg, _ = make("MaskFormer", tmp_path / "run", TEST__WINDOW__STRIDE=65)
    args = argument_parser().parse_args([])
    with pytest.raises(UserError, match="STRIDE is 65"):
        check_run(cfg, args)
    assert not (tmp_path / "run").exists()


def test_what_has_no_windows():
    cfg, model = make("MaskFormer")
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    with pytest.raises(UserError, match="WINDOW.SIZE is 64.*INSTANCE_ON"):
        with_sliding_window(cfg, model)
    cfg, model = make("MaskFormer", TEST__WINDOW__STRIDE=65)
    with pytest.raises(UserError, match="STRIDE is 65"):
        with_sliding_window(cfg, model)
    cfg, model = make("MaskFormer", TEST__AUG__PROBABILITIES=True)
    with pytest.raises(UserError, match="PROBABILITIES.*MaskFormer"):
        with_test_time_augmentation(cfg, model)
    boxes = nn.Module()
    boxes.forward = lambda inputs: [{"instances": None}]
    cfg, _ = make("MaskFormer")
    with pytest.raises(UserError, match=r"'sem_seg'.*\['instances'\]"):
        with_sliding_window(cfg, boxes)([{"image": random_image(64, 64)}])
