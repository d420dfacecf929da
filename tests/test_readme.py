"""The README's Python examples run as they stand, and files that documents name exist."""

import re
from pathlib import Path

import pytest
import torch

from mask_former.criterion import SetCriterion
from mask_former.engine import load_config
from mask_former.losses import MASK_LOSSES
from mask_former.losses.mask import paired_loss
from mask_former.structures import PixelFeatures, Prediction, Target

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- tested by .*? -->\n```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(code: str) -> dict:
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_use_from_another_project():
    names = run(EXAMPLES[0])
    assert names["scores"].shape == (150, 480, 600)
    assert (names["scores"] >= 0).all()


def test_a_new_predictor_trains():
    names = run(EXAMPLES[1])
    predictor = names["BlindPredictor"](num_queries=4, num_classes=3, mask_dim=8)
    (prediction,) = predictor(PixelFeatures(torch.randn(2, 8, 5, 6), ()))
    assert prediction.class_logits.shape == (2, 4, 4)
    assert prediction.mask_logits.shape == (2, 4, 5, 6)


def test_a_new_mask_loss_is_a_name_in_the_config(monkeypatch):
    monkeypatch.setitem(MASK_LOSSES, "tversky", None)  # and without it again after the test
    tversky = run(EXAMPLES[2])["TverskyLoss"]()
    # p = (1, 1/2, 1/2, 0) and a target of the first two: half a pixel is missed, one half too many.
    logits = torch.tensor([[100.0, 0.0, 0.0, -100.0]])
    loss = paired_loss(tversky, logits, torch.tensor([[True, True, False, False]]))
    assert loss.item() == pytest.approx(1 - 2.5 / (2.5 + 0.7 * 0.5 + 0.3 * 0.5))

    cfg = load_config("configs/ade20k-150/maskformer_R50_bs16_160k.yaml")
    cfg.MODEL.MASK_FORMER.MASK_LOSS = "tversky"
    predictions = [Prediction(torch.zeros(1, 1, 151), logits.view(1, 1, 1, 4))]
    target = Target(torch.tensor([7]), logits.view(1, 1, 4) > -1)
    found = SetCriterion(cfg)(predictions, [target])
    # Here half a pixel twice is missed.
    assert found["loss_mask"].item() == pytest.approx(20 * (1 - 3 / (3 + 0.7)))

    cfg.MODEL.MASK_FORMER.MASK_LOSS = "tverski"
    with pytest.raises(ValueError, match="MASK_LOSS is 'tverski'.*focal, bce, tversky"):
        SetCriterion(cfg)


def test_files_that_documents_name_exist():
    found, missing = 0, []
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]:
        text = document.read_text(encoding="utf-8")
        links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", text)
        paths = r"\b(?:mask_former|tests|tools|demo|benchmarks)/[\w/]+\.(?:py|md)\b"
        named = re.findall(rf"{paths}|\bconfigs/[\w./-]+\.yaml\b", text)
        files = [document.parent / link for link in links] + [ROOT / name for name in named]
        found += len(files)
        missing += [f"{document.name}: {file}" for file in files if not file.exists()]
    assert found > 50
    assert missing == []
