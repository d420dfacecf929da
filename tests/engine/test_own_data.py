"""Data sets of the user's own: what a config need not say, and from yaml to metrics."""

import sys

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.shapes.make import CATEGORIES
from mask_former.engine import argument_parser, check_run
from mask_former.engine.config import load_config
from tests.engine import tiny

pytestmark = pytest.mark.usefixtures("restored_catalog")
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
    # What is set is said, with the reason.
    names = ", ".join(NAMES[:num_classes])
    said = f"NUM_CLASSES {num_classes}: data set 'mine_train' has {num_classes} classes: {names}"
    assert said in caplog.text and f"INPUT.DATASET_MAPPER_NAME {mapper}: data" in caplog.text
    check_run(cfg, argument_parser().parse_args([]))
    for name in ("mine_train", "mine_val"):  # as in a process that is started for the training
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    metrics = tiny.run_here(cfg)["metrics"]
    for result, metric in outputs.values():
        assert 0 <= metrics[result][metric] <= 100


def test_the_saved_config_says_everything(write, tmp_path, caplog):
    cfg = load_config(write("instances"))
    saved = tmp_path / "saved.yaml"
    saved.write_text(cfg.dump())
    caplog.clear()
    again = load_config(str(saved))
    assert again == cfg and not caplog.records


def test_the_command_line_names_the_data_set(write, tmp_path):
    """What the file says is for the data sets that it names."""
    path = write("panoptic")
    root = load_config(path).DATASETS.CUSTOM.mine.ROOT
    keys = {"FORMAT": "instances", "ROOT": root, "IMAGES": "val"}
    keys["JSON"] = "annotations/instances_val.json"
    opts = [part for key, value in keys.items() for part in (f"DATASETS.CUSTOM.new.{key}", value)]
    cfg = load_config(path, [*opts, "DATASETS.TRAIN", "('new',)", "DATASETS.TEST", "('new',)"])
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6
    assert cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_instance"


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        (
            "instances",
            {"MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 7}}},
            "instances.yaml: MODEL.SEM_SEG_HEAD.NUM_CLASSES is 7, but data set 'mine_train' has 6 "
            "classes: disc, .*: it must be 6. Leave it out",
        ),
        (
            "instances",
            {"INPUT": {"DATASET_MAPPER_NAME": "mask_former_panoptic"}},
            "INPUT.DATASET_MAPPER_NAME is 'mask_former_panoptic', but data set 'mine_train' is of "
            "the type coco: it must be 'mask_former_instance' or 'coco_instance_lsj'",
        ),
        (
            "semantic",
            {"MODEL": {"MASK_FORMER": {"TEST": {"PANOPTIC_ON": True}}}},
            "TEST.PANOPTIC_ON is True, but data set 'mine_val' is of the type sem_seg: it must ",
        ),
        (
            "semantic",
            {"MODEL": {"SEM_SEG_HEAD": {"IGNORE_VALUE": 0}}},
            "IGNORE_VALUE is 0, but it is the ignored label of data set 'mine_train'.* be 255",
        ),
    ],
)
def test_what_contradicts_the_data(write, task, sections, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(task, **sections))


def test_a_built_in_training_set_has_the_classes(write):
    """The model is trained on them; that the test set has others is said before the training."""
    datasets = ["DATASETS.TRAIN", "('shapes_train_panoptic',)"]
    cfg = load_config(write("panoptic"), datasets)
    assert len(NAMES) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    check_run(cfg, argument_parser().parse_args([]))
    path = write("semantic", {"CLASSES": NAMES[:-1], "IGNORE": [len(NAMES) - 1]})
    cfg = load_config(path, datasets)
    assert len(NAMES) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_panoptic"
    with pytest.raises(ValueError, match="'mine_val' differ in their classes: .* 10 and 9"):
        check_run(cfg, argument_parser().parse_args([]))


def test_what_agrees_with_the_data_stays(write):
    sections = {
        "INPUT": {"DATASET_MAPPER_NAME": "detr_panoptic"},
        "MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 10}},
    }
    path = write("panoptic", **sections)
    cfg = load_config(path, ["MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False"])
    assert cfg.INPUT.DATASET_MAPPER_NAME == "detr_panoptic"
    test = cfg.MODEL.MASK_FORMER.TEST
    assert (test.SEMANTIC_ON, test.INSTANCE_ON, test.PANOPTIC_ON) == (False, True, True)


def test_large_scale_jitter_stays(write, tmp_path):
    path = write("instances")
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text().replace("mask_former_panoptic", "coco_panoptic_lsj"))
    assert load_config(path).INPUT.DATASET_MAPPER_NAME == "coco_instance_lsj"


def test_without_the_files_classes_stay_and_the_rest_follows(write, caplog):
    cfg = load_config(write("instances", {"ROOT": "nowhere"}))
    assert cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_instance"
    assert cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON and not cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON
    assert "number of classes is not read" in caplog.text
    assert "nowhere/annotations/instances_train.json" in caplog.text
    assert "Correct DATASETS.CUSTOM.mine.JSON" in caplog.text
    with pytest.raises(FileNotFoundError, match="DATASETS.CUSTOM.mine.JSON"):
        check_run(cfg, argument_parser().parse_args([]))


@pytest.fixture
def module(tmp_path, shapes_root, monkeypatch):
    """A user's module that registers a data set, under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_data.py").write_text(
        "from mask_former.data import register_instances\n"
        f"root = {str(shapes_root / 'shapes')!r}\n"
        "register_instances('users', image_root=f'{root}/val', "
        "json_file=f'{root}/annotations/instances_val.json')\n"
    )
    yield tmp_path / "users_data.py"
    sys.modules.pop("users_data", None)


def test_what_detectron2_registers(module, shapes_root):
    """Its classes are not known until the file is read."""
    folder = shapes_root / "shapes"
    module.write_text(
        "from detectron2.data.datasets import register_coco_instances\n"
        f"register_coco_instances('users', {{}}, '{folder}/annotations/instances_val.json', "
        f"'{folder}/val')\n"
    )
    cfg = load_config(opts=["IMPORTS", f"('{module}',)", "DATASETS.TEST", "('users',)"])
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6 and cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON
    assert cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_instance"


@pytest.mark.parametrize("by", ["name", "file"])
def test_a_module_of_the_users(module, by):
    named = "users_data" if by == "name" else str(module)
    opts = ["IMPORTS", f"('{named}',)", "DATASETS.TRAIN", "('users',)"]
    for _ in range(2):  # it is imported once
        cfg = load_config(opts=opts)
    assert (named,) == cfg.IMPORTS and "IMPORTS" in cfg.dump()
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6
    assert cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_instance"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["DATASETS.CUSTOM.mine.IMGES", "x"],
            "unknown key DATASETS.CUSTOM.mine.IMGES.*mine.IMAGES",
        ),
        (["DATASETS.CUSTOM.mine.CLASSES", "x"], "mine.CLASSES must be a tuple.* it is 'x'"),
        (["DATASETS.CUSTOM.mine", "x"], "CUSTOM holds sections, one for each.*mine.FORMAT"),
        (["DATASETS.CUSTOM.mine.a.FORMAT", "x"], "under a name without dots"),
        (["IMPORTS", "(1,)"], "IMPORTS is .*, but its elements must be texts, not 1"),
        (["DATASETS.CUSTOM", "x"], "DATASETS.CUSTOM is a section, not a key"),
    ],
)
def test_bad_keys(opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(opts=opts)
