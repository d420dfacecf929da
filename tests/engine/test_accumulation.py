"""SOLVER.ACCUMULATION_STEPS: a batch in parts learns what the whole batch learns."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mask_former.engine.step import TrainStep
from mask_former.errors import UserError
from tests.engine import tiny

OPTIONS = {
    **tiny.LIKE_ITS_PARTS,
    "DATASETS__TEST": (),
    "SOLVER__IMS_PER_BATCH": 4,
    "SOLVER__MAX_ITER": 4,
}
WEIGHTS = [1.0 + i / 4 for i in range(tiny.NUM_CLASSES)]
PER_PIXEL = {
    "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL__SEM_SEG_HEAD__NAME": "PerPixelBaselineHead",
    "MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False,
    "INPUT__DATASET_MAPPER_NAME": "mask_former_semantic",
    "DATASETS__TRAIN": ("shapes_train_semantic",),
}


def model_of(cfg):
    return torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)["model"]


def assert_same(cfg, losses, expected_cfg, expected):
    assert losses.keys() == expected.keys()
    for iteration, loss in expected.items():
        assert losses[iteration] == pytest.approx(loss, rel=1e-5), iteration
    ours, theirs = model_of(cfg), model_of(expected_cfg)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [{}, PER_PIXEL], ids=["MaskFormer", "SemanticSegmentor"])
@pytest.mark.parametrize("weights", [[], WEIGHTS], ids=["", "class weights"])
def test_parts_train_like_the_batch(shapes_root, tmp_path, head, weights):
    """The same losses, to 1e-5 of their value, and the same weights, to 1e-5."""
    options = OPTIONS | head | {"MODEL__SEM_SEG_HEAD__CLASS_WEIGHTS": weights}
    whole = tiny.tiny_cfg(tmp_path / "whole", **options)
    parts = tiny.tiny_cfg(tmp_path / "parts", SOLVER__ACCUMULATION_STEPS=4, **options)
    expected = tiny.run_here(whole)["losses"]
    assert_same(parts, tiny.run_here(parts)["losses"], whole, expected)


def test_parts_of_two_processes_train_like_the_batch(shapes_root, tmp_path):
    """Interrupted on the way, and resumed."""
    whole = tiny.tiny_cfg(tmp_path / "whole", **OPTIONS)
    parts = tiny.tiny_cfg(
        tmp_path / "parts",
        SOLVER__ACCUMULATION_STEPS=2,
        SOLVER__REFERENCE_WORLD_SIZE=2,
        **OPTIONS,
    )
    codes, output = tiny.run_in_two(parts, "--kill-after", "0", "--by", "SIGTERM")
    assert codes == [75, 75], output
    codes, output = tiny.run_in_two(parts, "--resume")
    assert codes == [0, 0], output
    assert "4 images (1 x 2 processes x 2 parts)" in output
    expected = tiny.run_here(whole)["losses"]
    losses = tiny.read_record(parts)["losses"]
    assert_same(parts, losses, whole, {k: v for k, v in expected.items() if int(k) >= 2})


class Mean(nn.Module):
    """The loss is the mean of w x over the batch, of whatever size."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0))
        self.normalize_by(None)

    def normalize_by(self, batch, average=None):
        self.size = batch and len(batch)

    def forward(self, batch):
        total = sum(self.w * record["x"] for record in batch)
        return {"loss_a": total / (self.size or len(batch))}


@pytest.mark.parametrize("amp_dtype", [None, torch.float16])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_step_by_hand(amp_dtype, parts):
    """With a loss scaler, too; parts may differ in size."""
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    step = TrainStep(model, optimizer, device_type="cpu", amp_dtype=amp_dtype, parts=parts)
    losses = step.forward_backward([{"x": x} for x in (1.0, 2.0, 3.0, 6.0)])
    assert losses["loss_a"].item() == 9  # 3 times the mean, 3
    step.update()
    assert model.w.item() == 1.5
    assert model([{"x": 4.0}])["loss_a"].item() == 6  # a batch again


@pytest.mark.parametrize("x", [float("inf"), float("nan")])
def test_the_images_of_the_part_that_is_not_finite_are_named(x):
    model = Mean()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1.0), device_type="cpu", parts=2)
    batch = [{"x": value, "file_name": f"{i}.jpg"} for i, value in enumerate([1.0, 2.0, 3.0, x])]
    with pytest.raises(FloatingPointError, match=r"images: 1\.jpg, 3\.jpg$"):
        step.forward_backward(batch)
    assert model.size is None and model.w.item() == 3


def test_a_model_that_does_not_say_what_its_losses_are_divided_by_is_refused():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    TrainStep(model, optimizer, device_type="cpu")
    with pytest.raises(UserError, match="ACCUMULATION_STEPS is 2, but Linear .* normalize_by"):
        TrainStep(model, optimizer, device_type="cpu", parts=2)


def test_a_batch_that_has_not_as_many_parts_is_refused(shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path, **OPTIONS, SOLVER__ACCUMULATION_STEPS=3)
    with pytest.raises(UserError, match="IMS_PER_BATCH is 4.*ACCUMULATION_STEPS, 3"):
        tiny.run_here(cfg)
