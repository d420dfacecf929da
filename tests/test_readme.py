"""The README's Python examples run as they stand, and its files exist."""

import re
from pathlib import Path

import pytest
import torch

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
    from mask_former.structures import PixelFeatures

    (prediction,) = predictor(PixelFeatures(torch.randn(2, 8, 5, 6), {}))
    assert prediction.class_logits.shape == (2, 4, 4)
    assert prediction.mask_logits.shape == (2, 4, 5, 6)


def test_files_that_are_named_exist():
    named = re.findall(r"\]\(((?!https?:)[^)#]+)\)", TEXT)
    named += re.findall(r"(?:configs|tools|demo)/[\w./-]+\.(?:yaml|py|md)", TEXT)
    named += [f"mask_former/{name}" for name in re.findall(r"`mask_former/([\w/]+\.py)`", TEXT)]
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
