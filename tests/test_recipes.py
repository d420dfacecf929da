"""The 30 published recipes: every key, the weights of the models, and that they run."""

import json
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from mask_former.config import add_mask_former_config

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
FACTS = json.loads((REFERENCE / "recipes.json").read_text())
RECIPES = FACTS["recipes"]
FILES = {
    file.relative_to(ROOT / "configs").with_suffix("").as_posix(): file
    for file in (ROOT / "configs").rglob("*.yaml")
    if not file.name.startswith("Base") and file.parent.name != "shapes"
}


def flat(cfg, prefix=""):
    """{"A": {"B": (1,)}} -> {"A.B": [1]}."""
    found = {}
    for key, value in cfg.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def published_defaults():
    cfg = get_cfg()
    add_deeplab_config(cfg)
    return flat(cfg) | FACTS["defaults_added_to_detectron2"]


def test_defaults():
    cfg = get_cfg()
    add_mask_former_config(cfg)
    defaults = flat(cfg)
    expected = published_defaults()
    assert {key: defaults[key] for key in expected} == expected


def test_all_recipes_are_there():
    assert FILES.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_every_key(name):
    cfg = get_cfg()
    add_mask_former_config(cfg)
    ours = flat(cfg)
    cfg.merge_from_file(FILES[name])
    expected = ours | published_defaults() | RECIPES[name]
    assert flat(cfg) == expected
