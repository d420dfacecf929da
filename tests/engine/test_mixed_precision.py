import pytest
import torch
from torch import nn

from mask_former import precision
from mask_former.engine.step import MixedPrecision
from mask_former.engine.trainer import Trainer
from tests.engine import tiny


@pytest.fixture(autouse=True)
def every_processor(monkeypatch):
    """bfloat16 also where it is emulated: there is little to compute."""
    monkeypatch.setattr(precision, "native_dtypes", lambda device: frozenset({torch.bfloat16}))


def test_bfloat16_trains_like_float32(shapes_root, tmp_path):
    """On the CPU, three digits of mantissa: the losses differ, but by little."""
    options = {
        "DATASETS__TEST": (),
        "MODEL__MASK_FORMER__DROPOUT": 0.0,
        "SOLVER__MAX_ITER": 3,
        "SOLVER__AMP__DTYPE": "bfloat16",
    }
    full, mixed = (
        tiny.run_here(tiny.tiny_cfg(tmp_path / name, SOLVER__AMP__ENABLED=enabled, **options))
        for name, enabled in (("full", False), ("mixed", True))
    )
    assert mixed["losses"] != full["losses"]
    for iteration, loss in full["losses"].items():
        assert mixed["losses"][iteration] == pytest.approx(loss, rel=0.02)


def test_evaluation_in_bfloat16_is_nearly_that_in_float32(shapes_root, tmp_path, monkeypatch):
    """The model's products are in bfloat16; what evaluates its output is not under autocast."""
    cfg = tiny.tiny_cfg(tmp_path, MODEL__DEVICE="cpu")
    model = Trainer.build_model(cfg)
    seen = {}
    for name in ("float32", "bfloat16"):
        cfg.TEST.PRECISION = name
        handle = model.sem_seg_head.register_forward_hook(
            lambda _, __, out, p=name: seen.update({p: out[-1].mask_logits})
        )
        Trainer.test(cfg, model)
        handle.remove()
    assert seen["float32"].dtype == torch.float32 and seen["bfloat16"].dtype == torch.bfloat16
    difference = (seen["bfloat16"] - seen["float32"]).abs().max()
    assert 0 < difference < 0.1 * seen["float32"].abs().max()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_an_evaluation_leaves_the_model_in_its_mode(shapes_root, tmp_path, name, mode):
    cfg = tiny.tiny_cfg(tmp_path, MODEL__DEVICE="cpu", TEST__PRECISION=name)
    model = Trainer.build_model(cfg).train(mode)
    Trainer.test(cfg, model)
    assert {module.training for module in model.modules()} == {mode}


def test_only_the_model_is_under_autocast():
    model = MixedPrecision(nn.Linear(4, 4), torch.bfloat16)
    x = torch.ones(1, 4)
    assert model(x).dtype == torch.bfloat16
    assert (x @ x.T).dtype == torch.float32
