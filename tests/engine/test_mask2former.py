"""Mask2Former in training and after it: what the engine offers works with it. tests/test_compile.py
compiles it as one graph."""

import cv2
import numpy as np
import torch

from benchmarks.measure import peak_memory
from demo import demo
from mask_former.engine import build_model
from mask_former.engine.predict import DefaultPredictor
from tests.backbone.training import MASK2FORMER
from tests.engine import tiny
from tests.engine.every_model import assert_a_resumed_run_continues, assert_one_view_is_the_model


def test_a_resumed_run_continues(shapes_root, tmp_path):
    assert_a_resumed_run_continues(tmp_path / "run", **MASK2FORMER)


def test_test_time_augmentation_of_one_view_is_the_model(tmp_path):
    assert_one_view_is_the_model(tmp_path, **MASK2FORMER)


def test_two_processes(shapes_root, tmp_path):
    """Their points are random, so that no other run has the same losses."""
    cfg = tiny.tiny_cfg(tmp_path / "run", **MASK2FORMER, SOLVER__MAX_ITER=2, DATASETS__TEST=())
    process = tiny.start(cfg, "--num-gpus", "2")
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    losses = tiny.read_record(cfg)["losses"]
    assert sorted(losses) == ["0", "1"] and all(np.isfinite(loss) for loss in losses.values())


def test_activation_checkpointing(tmp_path):
    """The same gradients with less memory."""
    options = {
        "MODEL__BACKBONE__NAME": "D2SwinTransformer",
        "MODEL__SWIN__EMBED_DIM": 8,
        "MODEL__SWIN__NUM_HEADS": [1, 1, 2, 2],
        "MODEL__SWIN__WINDOW_SIZE": 4,
    }
    images, kept, gradients = torch.randn(2, 3, 128, 128), [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        options["MODEL__BACKBONE__ACTIVATION_CHECKPOINTING"] = enabled
        model = build_model(tiny.tiny_cfg(tmp_path, **MASK2FORMER, **options)).train()
        results = []

        def predict(model=model, results=results):
            results.extend(model.predict(images))

        kept.append(peak_memory(predict))
        sum(p.class_logits.square().sum() for p in results).backward()
        gradients.append(model.backbone.patch_embed.proj.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)
    assert kept[1] < kept[0] * 0.9


def test_predictor_and_demo_draw_what_the_model_finds(tmp_path):
    cfg = tiny.tiny_cfg(tmp_path, **MASK2FORMER)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    cfg.DATASETS.TEST = ("shapes_val_panoptic",)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    found = DefaultPredictor(cfg)(image)["sem_seg"]
    pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)  # from BGR to RGB
    with torch.no_grad():
        torch.testing.assert_close(found, model([{"image": pixels}])[0]["sem_seg"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    flags = ["--config-file", tmp_path / "config.yaml", "--input", tmp_path / "photo.png"]
    flags += ["--output", tmp_path / "out", "--confidence-threshold", 0]
    assert demo.main([str(flag) for flag in flags]) == 0
    drawn = cv2.imread(str(tmp_path / "out/photo.png"))
    assert drawn.shape == image.shape and (drawn != image).any()
