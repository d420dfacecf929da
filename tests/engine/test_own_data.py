"""Data sets of the user's own: what a config need not say, and from yaml to metrics."""


import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.shapes.make import CATEGORIES
from mask_former.engine import argument_parser, check_run
from mask_former.engine.config import load_config
from tests.engine import tiny

NAMES = [category["name"] for category in CATEGORIES]
# The data set "shapes" as a user would describe it.
COMMON = {"SPLITS": ["train", "val"], "ROOT": "", "IMAGES": "{split}"}
ENTRIES = {
    "semantic": {"LABELS": "sem_seg_{split}", "CLASSES": NAMES},
    "instances": {"JSON": "annotations/instances_{split}.json"},
    "panoptic": {
        "LABELS": "panoptic_{split}",
        "JSON": "annotations/panoptic_{split}.json",
        "INSTANCES_JSON": "annotations/instances_{split}.json",
        "SEMANTIC_LABELS": "sem_seg_{split}",
    },
}
# Task -> mapper, number of classes, outputs, and a metric of each.
EXPECTED = {
    "semantic": ("mask_former_semantic", 10, {"SEMANTIC_ON": ("sem_seg", "mIoU")}),
    "instances": ("mask_former_instance", 6, {"INSTANCE_ON": ("segm", "AP")}),
    "panoptic": (
        "mask_former_panoptic",
        10,
        {
            "SEMANTIC_ON": ("sem_seg", "mIoU"),
            "INSTANCE_ON": ("segm", "AP"),
            "PANOPTIC_ON": ("panoptic_seg", "PQ"),
        },
    ),
}
DATA_KEYS = ("DATASETS", "INPUT.DATASET_MAPPER_NAME", "MODEL.SEM_SEG_HEAD.NUM_CLASSES")


@pytest.fixture(autouse=True)
def unregistered():
    """Data sets that a test registers are gone after it."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def write(tmp_path, shapes_root):
    """Writes a yaml file of a tiny model on own data, as a child of one for other data."""

    def write(task, entry=None, name="mine", **sections):
        base = tiny.tiny_cfg(tmp_path / "run", SOLVER__MAX_ITER=2)
        (tmp_path / "base.yaml").write_text(base.dump())
        root = str(shapes_root / "shapes")
        keys = {"FORMAT": task, **COMMON, **ENTRIES[task], "ROOT": root, **(entry or {})}
        datasets = {"CUSTOM": {name: keys}, "TRAIN": [f"{name}_train"], "TEST": [f"{name}_val"]}
        content = {"_BASE_": "base.yaml", "DATASETS": datasets, **sections}
        path = tmp_path / f"{task}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.mark.parametrize("task", ENTRIES)
def test_from_yaml_to_metrics(task, write, caplog):
    cfg = load_config(write(task))
    mapper, num_classes, outputs = EXPECTED[task]
    assert mapper == cfg.INPUT.DATASET_MAPPER_NAME
    assert num_classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    switches = cfg.MODEL.MASK_FORMER.TEST
    on = {key for key in switches if key.endswith("_ON") and switches[key]}
    assert on == set(outputs)
    check_run(cfg, argument_parser().parse_args([]))
    metrics = tiny.run_here(cfg)["metrics"]
    for result, metric in outputs.values():
        assert 0 <= metrics[result][metric] <= 100
