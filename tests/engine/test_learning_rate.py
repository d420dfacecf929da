import pytest

from mask_former.engine.config import get_cfg, read_settings
from mask_former.engine.learning_rate import rate_of_another_batch, scaled_to_processes
from mask_former.errors import UserError
from mask_former.model_zoo import config_folder

BATCH, RATE = "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LR: 0.0001, IMS_PER_BATCH: 16}")
    (tmp_path / "recipe.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 100}")
    return str(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("opts", [(), (BATCH, "16"), (BATCH, "4", RATE, "0.1"), (RATE, "0.1")])
def test_nothing_to_say(recipe, opts):
    assert rate_of_another_batch(read_settings(recipe, opts)) == ""


def test_another_batch(recipe):
    said = rate_of_another_batch(read_settings(recipe, [BATCH, "4"]))
    assert "BASE_LR 0.0001 of " in said and "base.yaml is for SOLVER.IMS_PER_BATCH 16" in said
    assert "now is 4" in said and "BASE_LR 2.5e-05" in said and "MAX_ITER 4 times" in said


def test_no_recipe_says_it_of_itself():
    recipes = [path for path in config_folder().rglob("*.yaml") if "Base-" not in path.name]
    assert len(recipes) > 50
    for path in recipes:
        assert rate_of_another_batch(read_settings(str(path))) == "", path


@pytest.fixture
def cfg():
    """Written for eight processes."""
    cfg = get_cfg()
    cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 8, 16, 0.1
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 5000, (4000, 4500), 100
    cfg.SOLVER.BACKBONE_WARMUP_ITERS, cfg.MODEL.EOMT.ANNEALING_START = 40, [0, 800]
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.EMA_DECAY = 1000, 3, 0.96
    return cfg


@pytest.mark.parametrize(
    ("processes", "solver", "eval_period"),
    [
        (8, (16, 0.1, 5000, (4000, 4500), 100, 1000, 0.96), 3),
        (2, (4, 0.025, 20000, (16000, 18000), 400, 4000, 0.96**0.25), 12),
        (16, (32, 0.2, 2500, (2000, 2250), 50, 500, 0.96**2), 2),
        (64, (128, 0.8, 625, (500, 562), 12, 125, 0.96**8), 1),
    ],
)
def test_all_that_depends_on_the_number_of_processes_is_scaled(cfg, processes, solver, eval_period):
    scaled = scaled_to_processes(cfg, processes)
    keys = "IMS_PER_BATCH BASE_LR MAX_ITER STEPS WARMUP_ITERS CHECKPOINT_PERIOD EMA_DECAY"
    for key, value in zip(keys.split(), solver, strict=True):
        assert scaled.SOLVER[key] == pytest.approx(value), key
    assert eval_period == scaled.TEST.EVAL_PERIOD
    # EoMT's, whose masks may be annealed from the beginning.
    assert round(40 * 8 / processes) == scaled.SOLVER.BACKBONE_WARMUP_ITERS
    assert [0, round(800 * 8 / processes)] == scaled.MODEL.EOMT.ANNEALING_START
    # The share of a process, and the number of images of the whole training.
    assert scaled.SOLVER.IMS_PER_BATCH / processes == 2
    assert scaled.SOLVER.IMS_PER_BATCH * scaled.SOLVER.MAX_ITER == 80_000
    # Once scaled, it is written for these processes.
    assert scaled_to_processes(scaled, processes) is scaled


def test_it_scales_what_detectron2_scales(cfg):
    from detectron2.engine import DefaultTrainer

    cfg.SOLVER.EMA_DECAY, cfg.SOLVER.BACKBONE_WARMUP_ITERS = 0.0, 0
    cfg.MODEL.EOMT.ANNEALING_START = []
    expected = DefaultTrainer.auto_scale_workers(cfg, 4)
    assert scaled_to_processes(cfg, 4) == expected


def test_nothing_is_scaled_without_a_reference(cfg):
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert scaled_to_processes(cfg, 3) is cfg


def test_no_evaluation_stays_none(cfg):
    cfg.TEST.EVAL_PERIOD = 0
    assert scaled_to_processes(cfg, 64).TEST.EVAL_PERIOD == 0


def test_a_batch_that_the_reference_cannot_share(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(UserError, match="IMS_PER_BATCH is 12.*REFERENCE_WORLD_SIZE 8"):
        scaled_to_processes(cfg, 4)
