"""The recipes for own data resolve, and what the documents say about it is so."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former import model_zoo
from mask_former.engine.config import load_config
from tests.data import small_coco

pytestmark = pytest.mark.usefixtures("restored_catalog")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "own-data"
DOCUMENT = (ROOT / "docs" / "DATASETS.md").read_text(encoding="utf-8")
# Task -> mapper, output, and the classes of the files below.
EXPECTED = {
    "semantic": ("mask_former_semantic", "SEMANTIC_ON", ["background", "road", "car"]),
    "instances": ("coco_instance_lsj", "INSTANCE_ON", ["cat", "dog"]),
    "panoptic": ("coco_panoptic_lsj", "PANOPTIC_ON", ["cat", "ground"]),
}


@pytest.fixture
def mine(tmp_path):
    """Very small data in the places that the recipes' headers name."""
    for split in ("train", "val"):
        for folder in (f"images/{split}", f"labels/{split}", f"panoptic_{split}"):
            (tmp_path / folder).mkdir(parents=True)
        for name in ("images", "labels"):
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / name / split / "a.png")
        small_coco.write_json(tmp_path / f"instances_{split}.json", small_coco.instances())
        small_coco.write_json(tmp_path / f"panoptic_{split}.json", small_coco.panoptic())
    return str(tmp_path)


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("folder", ["", "fine-tuning"])
def test_recipes(task, folder, mine):
    path = FOLDER / folder / f"{task}.yaml"
    cfg = load_config(str(path), ["DATASETS.CUSTOM.mine.ROOT", mine])
    mapper, output, classes = EXPECTED[task]
    assert mapper == cfg.INPUT.DATASET_MAPPER_NAME
    switches = cfg.MODEL.MASK_FORMER.TEST
    assert [key for key in switches if key.endswith("_ON") and switches[key]] == [output]
    assert len(classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    metadata = MetadataCatalog.get(*cfg.DATASETS.TRAIN)
    assert (metadata.get("stuff_classes") or metadata.thing_classes) == classes
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert DatasetCatalog.get(name)

    # In proportion to the batch, as published: 1e-4 for 16.
    assert pytest.approx(1e-4 / 16) == cfg.SOLVER.BASE_LR / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.MAX_ITER % cfg.TEST.EVAL_PERIOD == 0
    assert cfg.TEST.EVAL_PERIOD == cfg.SOLVER.CHECKPOINT_PERIOD
    assert folder in cfg.OUTPUT_DIR and cfg.OUTPUT_DIR.endswith(task)
    assert (folder == "fine-tuning") == cfg.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD
    base, _ = yaml.safe_load((FOLDER / f"{task}.yaml").read_text())["_BASE_"]
    recipe = base.removeprefix("../")
    published = load_config(str(FOLDER / base)).MODEL.WEIGHTS
    weights = model_zoo.get_checkpoint_url(recipe) if folder else published
    assert weights == cfg.MODEL.WEIGHTS


def snippets(language):
    """Of the section on own data."""
    section = DOCUMENT.split("## Your own data")[1].split("\n## ")[0]
    return re.findall(rf"<!-- tested by .*? -->\n```{language}\n(.*?)```", section, re.DOTALL)


def test_the_documents_yaml(tmp_path):
    (text,) = snippets("yaml")
    (tmp_path / "x.yaml").write_text(text)
    load_config(str(tmp_path / "x.yaml"))
    assert {"fruit", "streets_train", "streets_val", "fields"} <= set(DatasetCatalog)
    fields = MetadataCatalog.get("fields")
    assert fields.stuff_classes == ["wheat", "weed"]
    streets = MetadataCatalog.get("streets_val").panoptic_json
    assert streets == "/data/streets/panoptic_val.json"

    (code,) = snippets("python")  # registers what "fields" is under another name
    exec(compile(code, "DATASETS.md", "exec"), {})
    acres = MetadataCatalog.get("acres")
    for key in ("image_root", "sem_seg_root", "stuff_classes", "label_encoding", "ignore_label"):
        assert getattr(acres, key) == getattr(fields, key)
