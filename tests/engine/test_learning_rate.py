import pytest

from mask_former.engine.config import read_settings
from mask_former.engine.learning_rate import rate_of_another_batch
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
