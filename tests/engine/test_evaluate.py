"""Evaluation of a config, plain and with test-time augmentation."""

import torch

from mask_former.engine import Trainer
from tests.engine.tiny import tiny_cfg


def test_with_augmentation_both_evaluations_are_reported(shapes_root, tmp_path):
    cfg = tiny_cfg(tmp_path / "run", TEST__AUG__ENABLED=True, TEST__AUG__MIN_SIZES=(32, 64))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    results = Trainer.evaluate(cfg)
    assert results.keys() == {"panoptic_seg", "sem_seg", "panoptic_seg_TTA", "sem_seg_TTA"}
    miou = {name: metrics["mIoU"] for name, metrics in results.items() if "mIoU" in metrics}
    assert miou["sem_seg"] == Trainer.test(cfg, model)["sem_seg"]["mIoU"]
    assert miou["sem_seg_TTA"] == Trainer.test_with_TTA(cfg, model)["sem_seg_TTA"]["mIoU"]
    assert miou["sem_seg_TTA"] != miou["sem_seg"]
    # What the first evaluation wrote is still there.
    assert (tmp_path / "run" / "inference").exists()
    assert (tmp_path / "run" / "inference_TTA").exists()

    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    cfg.DATASETS.TEST = ("shapes_val_panoptic", "shapes_val_semantic")
    results = Trainer.evaluate(cfg)
    assert list(results) == list(cfg.DATASETS.TEST)
    assert all(tasks.keys() == {"sem_seg", "sem_seg_TTA"} for tasks in results.values())
