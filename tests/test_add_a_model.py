"""docs/ADD_A_MODEL.md: its parts are registered, its recipe is loaded, and the model trains."""

import re
import sys
from pathlib import Path

from mask_former.engine import load_config
from tests.backbone.training import assert_trains

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/ADD_A_MODEL.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- tested by .*? -->\n```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def test_the_model_of_the_document_trains(tmp_path, monkeypatch):
    pixel_decoder, predictor = (text for language, text in EXAMPLES if language == "python")
    (recipe,) = (text for language, text in EXAMPLES if language == "yaml")
    monkeypatch.chdir(tmp_path)
    Path("my_model.py").write_text(pixel_decoder + predictor)
    Path("mine.yaml").write_text(recipe.replace("configs/", f"{ROOT}/configs/"))
    cfg = load_config("mine.yaml")
    del sys.modules["my_model"]
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 64
    assert_trains(cfg)


def test_it_has_two_pages():
    assert len(TEXT.splitlines()) <= 132  # of 66 lines
