"""What training and test-time augmentation have to do with every model."""

import json
from pathlib import Path

import torch

from mask_former.engine import build_model
from mask_former.engine.tta import MaskFormerWithTTA
from tests.engine import tiny


def assert_a_resumed_run_continues(folder: Path, **options) -> None:
    """In mixed precision: bfloat16 where the processor has it."""
    options |= {"SOLVER__AMP__ENABLED": True, "DATASETS__TEST": ()}
    options |= {"SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 4}
    cfg = tiny.tiny_cfg(folder, **options)
    straight = tiny.run_here(cfg)
    assert sorted(straight["losses"]) == ["0", "1", "2", "3"]
    assert all(loss < 1e4 for loss in straight["losses"].values())
    # Back to the middle of the run.
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    resumed = tiny.run_here(cfg, "--resume")
    assert resumed["losses"] == {i: straight["losses"][i] for i in ("2", "3")}
    names = json.loads((Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()[0])
    assert {"loss_ce", "loss_mask_2", "loss_dice_0"} <= names.keys()


@torch.no_grad()
def assert_one_view_is_the_model(folder: Path, **options) -> None:
    """With one scale, and without mirror images, augmentation changes nothing."""
    options |= {"MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False, "TEST__AUG__FLIP": False}
    options |= {"TEST__AUG__MIN_SIZES": (64,), "INPUT__MIN_SIZE_TEST": 64}
    cfg = tiny.tiny_cfg(folder, **options)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    inputs = [{"image": image, "height": 64, "width": 96}]
    expected = model(inputs)[0]["sem_seg"]
    merged = MaskFormerWithTTA(cfg, model)(inputs)[0]["sem_seg"]
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
