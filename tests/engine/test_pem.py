"""PEM in training and after it: mixed precision, resuming, views, demo; on shapes."""

import cv2
import numpy as np
import torch

from demo import demo
from mask_former import model_zoo
from mask_former.engine import build_model
from tests.backbone.training import assert_trains
from tests.engine import tiny
from tests.engine.every_model import assert_a_resumed_run_continues, assert_one_view_is_the_model

PEM = {
    "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "PEM_Pixel_Decoder",
    "MODEL__SEM_SEG_HEAD__NORM": "BN",
    "MODEL__MASK_FORMER__PREDICTOR_NAME": "PrototypeTransformerDecoder",
    "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL__MASK_FORMER__DEC_LAYERS": 4,
    "MODEL__MASK_FORMER__PRE_NORM": True,
    "MODEL__MASK_FORMER__MASK_LOSS": "bce",
    "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 64,
}


def test_a_resumed_run_continues(shapes_root, tmp_path):
    assert_a_resumed_run_continues(tmp_path / "run", **PEM)


def test_the_shapes_recipe_trains_and_is_evaluated(shapes_root, tmp_path):
    cfg = model_zoo.get_config("shapes/pem_panoptic")
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 3, 2
    cfg.TEST.EVAL_PERIOD = 0
    found = tiny.run_here(cfg)
    assert sorted(found["losses"]) == ["0", "1", "2"]
    assert all(np.isfinite(loss) for loss in found["losses"].values())
    assert {"PQ", "mIoU", "AP"} <= {k for task in found["metrics"].values() for k in task}


def test_every_parameter_of_the_backbone_learns_with_checkpointing(tmp_path):
    options = {"MODEL__BACKBONE__NAME": "D2STDCnet", "MODEL__BACKBONE__FREEZE_AT": 0}
    options |= {"MODEL__BACKBONE__ACTIVATION_CHECKPOINTING": True}
    assert_trains(tiny.tiny_cfg(tmp_path, **PEM, **options))


def test_test_time_augmentation_of_one_view_is_the_model(tmp_path):
    assert_one_view_is_the_model(tmp_path, **PEM)


def test_the_demo_draws(tmp_path):
    cfg = tiny.tiny_cfg(tmp_path, **PEM)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    flags = ["--config-file", tmp_path / "config.yaml", "--input", tmp_path / "photo.png"]
    flags += ["--output", tmp_path / "out", "--confidence-threshold", 0]
    assert demo.main([str(flag) for flag in flags]) == 0
    assert cv2.imread(str(tmp_path / "out/photo.png")).shape == image.shape
