"""Mask2Former in training: it resumes as if nothing had happened, and its views can be merged."""

import json
from pathlib import Path

from tests.engine import tiny
from tests.engine.one_view import assert_one_view_is_the_model

OPTIONS = {
    "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL__SEM_SEG_HEAD__TRANSFORMER_ENC_LAYERS": 1,
    "MODEL__MASK_FORMER__PREDICTOR_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL__MASK_FORMER__DEC_LAYERS": 4,
    "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 64,
    "DATASETS__TEST": (),
}


def test_a_resumed_run_in_mixed_precision_continues(shapes_root, tmp_path):
    """In bfloat16 where the processor has it."""
    options = {"SOLVER__AMP__ENABLED": True}
    options |= {"SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 4}
    cfg = tiny.tiny_cfg(tmp_path / "run", **OPTIONS, **options)
    straight = tiny.run_here(cfg)
    assert sorted(straight["losses"]) == ["0", "1", "2", "3"]
    assert all(loss < 1e4 for loss in straight["losses"].values())
    # Back to the middle of the run.
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    resumed = tiny.run_here(cfg, "--resume")
    assert resumed["losses"] == {i: straight["losses"][i] for i in ("2", "3")}
    names = json.loads((Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()[0])
    assert {"loss_ce", "loss_mask_2", "loss_dice_0"} <= names.keys()


def test_test_time_augmentation_of_one_view_is_the_model(tmp_path):
    assert_one_view_is_the_model(tmp_path, **OPTIONS)
