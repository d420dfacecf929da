"""The examples of docs/DETECTRON2.md run as they stand, and what it says of Detectron2 is so."""

import re
from pathlib import Path

import detectron2.solver
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.evaluation import SemSegEvaluator
from detectron2.structures import Instances, PolygonMasks
from PIL import Image

from mask_former.data import build_test_loader
from mask_former.engine import build_lr_scheduler, build_model, build_optimizer, load_config
from tests.engine.tiny import restored_loggers, tiny_cfg

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/DETECTRON2.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- tested by .*? -->\n```python\n(.*?)```", TEXT, re.DOTALL)


def run(number, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"__name__": "example"}
    exec(compile(EXAMPLES[number], "DETECTRON2.md", "exec"), names)
    return names


def test_other_projects_keys(monkeypatch):
    cfg = run(0, monkeypatch)["cfg"]
    assert cfg.MY_PROJECT.THRESHOLD == 0.3
    assert cfg.MODEL.POINT_HEAD.NUM_CLASSES == 80  # PointRend's
    assert cfg.MODEL.META_ARCHITECTURE == "MaskFormer"
    build_optimizer(cfg, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="unknown key MY_PROJECT.TRESHOLD.*MY_PROJECT.THRESHOLD"):
        load_config("", ["MY_PROJECT.TRESHOLD", "1"], cfg)


def test_a_prepared_config_keeps_its_values_and_is_not_changed():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 0.125
    cfg.freeze()
    loaded = load_config("", ["SEED", "3"], cfg)
    assert (loaded.SOLVER.BASE_LR, loaded.SEED) == (0.125, 3)
    assert loaded.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 100
    assert "MASK_FORMER" not in cfg.MODEL and cfg.SEED == -1


def test_the_default_trainer(shapes_root, tmp_path, monkeypatch):
    cfg = tiny_cfg(tmp_path, SOLVER__MAX_ITER=2)
    trainer_class = run(1, monkeypatch)["Trainer"]
    with restored_loggers():
        trainer = trainer_class(cfg)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.resume_or_load(resume=False)
        trainer.train()
        metrics = trainer_class.test(cfg, trainer.model)
    assert metrics.keys() == {"panoptic_seg", "sem_seg"} and metrics["sem_seg"]["mIoU"] > 0
    after = dict(trainer.model.named_parameters())
    assert [name for name, weight in before.items() if torch.equal(weight, after[name])] == []


def test_detectron2s_loader_and_a_loop_of_ones_own(shapes_root, tmp_path, monkeypatch):
    cfg = tiny_cfg(tmp_path)
    batch = next(iter(run(2, monkeypatch)["loader_with_our_mapper"](cfg)))
    assert len(batch) == 2
    model = build_model(cfg)
    losses = run(3, monkeypatch)["train_step"](model, build_optimizer(cfg, model), batch)
    assert {"loss_ce", "loss_mask", "loss_dice", "loss_ce_0"} <= losses.keys()


def test_detectron2s_mapper_with_masks(shapes_root, tmp_path):
    cfg = tiny_cfg(tmp_path, DATASETS__TRAIN=("shapes_train_instance",), MODEL__MASK_ON=True)
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.CROP.ENABLED = "bitmask", False
    model = build_model(cfg)
    losses = model(next(iter(build_detection_train_loader(cfg))))
    assert all(loss.isfinite() for loss in losses.values())

    polygons = PolygonMasks([[np.array([2.0, 1, 6, 1, 6, 5, 2, 5])]])
    instances = Instances((8, 10), gt_classes=torch.tensor([3]), gt_masks=polygons)
    record = {"image": torch.zeros(3, 8, 10), "instances": instances}
    (target,) = model.prepare_targets([record], model.preprocess([record]))
    expected = torch.zeros_like(target.masks)
    expected[0, 1:5, 2:6] = True
    assert torch.equal(target.masks, expected)


@pytest.mark.parametrize("name", ["shapes_val_semantic", "shapes_val_panoptic"])
def test_what_detectron2s_semantic_evaluator_needs(shapes_root, tmp_path, name):
    (code,) = re.findall(r"`sem_seg_loading_fn=(.*?)`", TEXT)
    load = eval(code, {"np": np, "Image": Image})
    evaluator = SemSegEvaluator(name, distributed=False, sem_seg_loading_fn=load)
    evaluator.reset()
    (inputs,) = next(iter(build_test_loader(tiny_cfg(tmp_path), name)))
    output = {"sem_seg": torch.zeros(10, inputs["height"], inputs["width"])}
    if name.endswith("panoptic"):
        with pytest.raises(AssertionError, match="Label 0 is not in the metadata"):
            evaluator.process([inputs], [output])
    else:
        evaluator.process([inputs], [output])
        assert evaluator.evaluate()["sem_seg"]["pACC"] >= 0


def test_what_detectron2s_builders_do_not_know(shapes_root, tmp_path):
    cfg = tiny_cfg(tmp_path, DATASETS__TRAIN=("shapes_train_instance",))
    model = build_model(cfg)
    with pytest.raises(ValueError, match="full_model"):
        detectron2.solver.build_optimizer(cfg, model)
    optimizer = build_optimizer(cfg, model)
    with pytest.raises(ValueError, match="WarmupPolyLR"):
        detectron2.solver.build_lr_scheduler(cfg, optimizer)
    build_lr_scheduler(cfg, optimizer)
    batch = next(iter(build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, True))))
    with pytest.raises(ValueError, match=r"\.jpg: the mapper gives no masks.*MODEL.MASK_ON True"):
        model(batch)
