"""EoMT in training: masks disappear by the schedule, a resumed run goes on as if nothing had
happened, and what the engine offers works with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mask_former import engine
from mask_former.engine import build_model
from mask_former.engine.predict import DefaultPredictor
from mask_former.engine.sliding_window import with_sliding_window
from tests.backbone.test_checkpointing import saved_bytes
from tests.backbone.training import assert_trains
from tests.engine import tiny
from tests.engine.every_model import assert_one_view_is_the_model

# timm's smallest ViT: 6 blocks of 64 channels.
OPTIONS = {
    "MODEL__META_ARCHITECTURE": "EoMT",
    "MODEL__BACKBONE__NAME": "ViTEncoder",
    "MODEL__VIT__NAME": "test_vit",
    "MODEL__VIT__IMG_SIZE": 64,
    "MODEL__SEM_SEG_HEAD__NAME": "EoMTHead",
    "MODEL__EOMT__NUM_BLOCKS": 2,
    "MODEL__EOMT__ANNEALING_START": [0, 2],
    "MODEL__EOMT__ANNEALING_END": [2, 4],
    "MODEL__MASK_FORMER__MASK_LOSS": "bce",
    "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 64,
    "SOLVER__LR_SCHEDULER_NAME": "TwoStageWarmupPolyLR",
    "SOLVER__BACKBONE_WARMUP_ITERS": 2,
    "SOLVER__CHECKPOINT_PERIOD": 1,
    "SOLVER__MAX_ITER": 4,
    "DATASETS__TEST": (),
}
PROBABILITIES = "sem_seg_head.predictor.attn_mask_probs"


def checkpoint(cfg, name):
    return torch.load(Path(cfg.OUTPUT_DIR) / name, weights_only=True)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_continues(ema_decay, shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(
        tmp_path / "run", **OPTIONS, SOLVER__AMP__ENABLED=True, SOLVER__EMA_DECAY=ema_decay
    )
    straight = tiny.run_here(cfg)
    last = checkpoint(cfg, "model_final.pth")["model"]
    # A checkpoint holds what the iteration after it has; the EMA of the weights holds no average.
    states = [checkpoint(cfg, f"model_000000{i}.pth")["model"][PROBABILITIES] for i in range(3)]
    half = 0.5**0.9
    torch.testing.assert_close(
        torch.stack([*states, last[PROBABILITIES]]),
        torch.tensor([[half, 1.0], [0.0, 1.0], [0.0, half], [0.0, 0.0]]),
    )
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    resumed = tiny.run_here(cfg, "--resume")
    assert resumed["losses"] == {i: straight["losses"][i] for i in ("2", "3")}
    again = checkpoint(cfg, "model_final.pth")["model"]
    assert all(torch.equal(weight, last[name]) for name, weight in again.items())
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    # Two blocks, and the prediction behind them.
    names = {name for line in lines for name in json.loads(line) if name.startswith("loss_ce")}
    assert names == {"loss_ce", "loss_ce_0", "loss_ce_1"}


def test_two_processes(shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path / "run", **(OPTIONS | {"SOLVER__MAX_ITER": 2}))
    codes, output = tiny.run_in_two(cfg)
    assert codes == [0, 0], output
    assert all(np.isfinite(loss) for loss in tiny.read_record(cfg)["losses"].values())


def test_every_parameter_learns(tmp_path):
    assert_trains(tiny.tiny_cfg(tmp_path, **OPTIONS, MODEL__MASK_FORMER__DEEP_SUPERVISION=False))


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 64, 64)).float()


def test_activation_checkpointing(images, tmp_path):
    """The same gradients with less memory, though masks are drawn at random."""
    kept, gradients = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        options = {"MODEL__BACKBONE__ACTIVATION_CHECKPOINTING": enabled}
        model = build_model(tiny.tiny_cfg(tmp_path, **OPTIONS, **options)).train()
        model.sem_seg_head.at_iteration(3)
        results = []

        def predict(model=model, results=results):
            results.extend(model.predict(images))

        kept.append(saved_bytes(predict))
        sum(p.class_logits.square().sum() for p in results).backward()
        gradients.append(model.backbone.model.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)
    assert kept[1] < kept[0] * 0.7


def test_what_is_compiled(images, tmp_path, monkeypatch):
    """All that takes time: the blocks, and what makes predictions of tokens."""
    compiled = []

    def record(call, **_):
        def run(*inputs):
            compiled.append(call.__self__)
            return call(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", record)
    plain = build_model(tiny.tiny_cfg(tmp_path, **OPTIONS)).eval()
    model = build_model(tiny.tiny_cfg(tmp_path, **OPTIONS, MODEL__COMPILE=True)).eval()
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        found, expected = model.predict(images)[0], plain.predict(images)[0]
    assert torch.equal(found.mask_logits, expected.mask_logits)
    assert compiled == [*model.backbone.model.blocks, model.sem_seg_head]


@torch.no_grad()
def test_semantic_windows(tmp_path):
    """As in its semantic recipes: as few windows as cover the image, spread evenly, averaged."""
    options = {"MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False, "TEST__WINDOW__SIZE": 64}
    cfg = tiny.tiny_cfg(tmp_path, **OPTIONS, **options)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 64, 160), dtype=torch.uint8)
    (found,) = with_sliding_window(cfg, model)([{"image": image}])
    total, count = torch.zeros(10, 64, 160), torch.zeros(160)
    for start in (0, 48, 96):
        window = slice(start, start + 64)
        total[..., window] += model([{"image": image[..., window]}])[0]["sem_seg"]
        count[window] += 1
    torch.testing.assert_close(found["sem_seg"], total / count)


def test_test_time_augmentation_of_one_view_is_the_model(tmp_path):
    assert_one_view_is_the_model(tmp_path, **OPTIONS)


def test_the_recipe_on_shapes(shapes_root, tmp_path):
    """A few steps as configured; then a picture by the predictor."""
    steps = {"SOLVER.MAX_ITER": 3, "SOLVER.IMS_PER_BATCH": 2, "TEST.EVAL_PERIOD": 0}
    options = [*steps.items(), ("OUTPUT_DIR", str(tmp_path / "run"))]
    cfg = engine.load_config("configs/shapes/eomt_panoptic.yaml", [x for o in options for x in o])
    record = tiny.run_here(cfg)
    assert len(record["losses"]) == 3 and all(np.isfinite(x) for x in record["losses"].values())
    assert 0 <= record["metrics"]["panoptic_seg"]["PQ"] <= 100
    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    result = DefaultPredictor(cfg)(np.zeros((50, 70, 3), np.uint8))
    assert result["panoptic_seg"][0].shape == result["sem_seg"].shape[1:] == (50, 70)
