"""Registration of data sets, and what users are told about those that are not there."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.datasets import check_dataset, datasets_root, register_panoptic

REPOSITORY = Path(__file__).parents[3]
CATEGORIES = [
    {"id": 4, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
    {"id": 9, "name": "sky", "isthing": 0, "color": [4, 5, 6]},
]


@pytest.fixture
def name():
    """A name that is free again after the test."""
    yield "test_catalog_panoptic"
    if "test_catalog_panoptic" in DatasetCatalog:
        DatasetCatalog.remove("test_catalog_panoptic")
    if "test_catalog_panoptic" in MetadataCatalog.list():
        MetadataCatalog.remove("test_catalog_panoptic")


@pytest.fixture
def content() -> dict:
    segments = [{"id": 7, "category_id": 9}, {"id": 8, "category_id": 4, "iscrowd": 1}]
    return {
        "images": [{"id": 31, "file_name": "a.jpeg", "height": 5, "width": 6}],
        "annotations": [{"image_id": 31, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }


@pytest.fixture
def paths(tmp_path, content) -> dict[str, Path]:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "index.json").write_text(json.dumps(content))
    return {
        "image_root": tmp_path / "images",
        "panoptic_root": tmp_path / "labels",
        "panoptic_json": tmp_path / "index.json",
    }


def test_records_of_a_users_data_set(name, paths):
    register_panoptic(name, **paths)
    assert DatasetCatalog.get(name) == [
        {
            "file_name": str(paths["image_root"] / "a.jpeg"),
            "image_id": 31,
            "height": 5,
            "width": 6,
            "pan_seg_file_name": str(paths["panoptic_root"] / "a.png"),
            "segments_info": [
                {"id": 7, "category_id": 1, "isthing": False, "iscrowd": 0},
                {"id": 8, "category_id": 0, "isthing": True, "iscrowd": 1},
            ],
        }
    ]


def test_metadata_of_a_users_data_set(name, paths):
    register_panoptic(name, **paths)
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.ignore_label == 255
    assert metadata.thing_classes == ["cat"] and metadata.stuff_classes == ["cat", "sky"]
    assert metadata.thing_colors == [[1, 2, 3]] and metadata.stuff_colors[1] == [4, 5, 6]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0}
    assert metadata.stuff_dataset_id_to_contiguous_id == {9: 1}
    assert not hasattr(metadata, "json_file") and not hasattr(metadata, "sem_seg_root")


def test_things_after_stuff_keep_every_contiguous_id_an_index(name, paths):
    register_panoptic(name, **paths, categories=CATEGORIES[::-1])
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == metadata.stuff_classes == ["sky", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 1}
    assert [s["category_id"] for s in DatasetCatalog.get(name)[0]["segments_info"]] == [0, 1]


def test_semantic_labels_are_named_as_the_panoptic_ones(name, paths, tmp_path):
    (tmp_path / "semantic").mkdir()
    register_panoptic(name, **paths, sem_seg_root=tmp_path / "semantic")
    assert DatasetCatalog.get(name)[0]["sem_seg_file_name"] == str(tmp_path / "semantic/a.png")


def test_categories_need_no_disk(name):
    register_panoptic(
        name, image_root="no", panoptic_root="no", panoptic_json="no", categories=CATEGORIES
    )
    assert MetadataCatalog.get(name).stuff_classes == ["cat", "sky"]


@pytest.mark.parametrize(
    "categories",
    [[], [{"id": 1, "name": "x"}], [CATEGORIES[0], {**CATEGORIES[1], "id": 4}]],
    ids=["none", "no isthing", "one id twice"],
)
def test_bad_categories(name, paths, categories):
    with pytest.raises(ValueError, match=name):
        register_panoptic(name, **paths, categories=categories)
    assert name not in DatasetCatalog


def test_missing_index_is_told_when_the_classes_are_asked_for(name, tmp_path):
    index = tmp_path / "nowhere.json"
    register_panoptic(
        name, image_root="", panoptic_root="", panoptic_json=index, prepare_command="a spell"
    )
    with pytest.raises(FileNotFoundError, match="nowhere.json, which does not exist.*`a spell`"):
        _ = MetadataCatalog.get(name).stuff_classes


def test_index_that_is_no_json(name, paths):
    paths["panoptic_json"].write_text("{")
    register_panoptic(name, **paths)
    with pytest.raises(ValueError, match="index.json is not valid JSON"):
        DatasetCatalog.get(name)


def change(content: dict, what: str) -> None:
    annotation = content["annotations"][0]
    match what:
        case "unknown image":
            annotation["image_id"] = 32
        case "unknown category":
            annotation["segments_info"][0]["category_id"] = 123
        case "missing key":
            del annotation["segments_info"]
        case "no annotations":
            content["annotations"] = []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("unknown image", "annotations.0. has the image_id 32"),
        ("unknown category", "image 31, segment 7 has the category_id 123"),
        ("missing key", "has no 'segments_info'"),
        ("no annotations", "no annotations"),
    ],
)
def test_index_that_contradicts_itself(name, paths, content, what, message):
    change(content, what)
    paths["panoptic_json"].write_text(json.dumps(content))
    register_panoptic(name, **paths)
    with pytest.raises(ValueError, match=message) as error:
        DatasetCatalog.get(name)
    assert "index.json" in str(error.value)


@pytest.mark.parametrize(
    "key", ["image_root", "panoptic_root", "panoptic_json", "json_file", "sem_seg_root"]
)
def test_whatever_is_missing_is_named(name, paths, tmp_path, key, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")
    missing = tmp_path / "gone"
    register_panoptic(
        name, **{**paths, key: missing}, categories=CATEGORIES, prepare_command="make gone"
    )
    for reader in (check_dataset, DatasetCatalog.get):
        with pytest.raises(FileNotFoundError) as error:
            reader(name)
        for part in (name, str(missing), "DETECTRON2_DATASETS", "/somewhere", "`make gone`"):
            assert part in str(error.value)


def test_a_path_of_the_users_own_has_no_variable(name, paths, tmp_path):
    register_panoptic(name, **{**paths, "image_root": tmp_path / "gone"}, categories=CATEGORIES)
    with pytest.raises(
        FileNotFoundError, match="gone, which does not exist. Correct the path"
    ) as e:
        check_dataset(name)
    assert "DETECTRON2_DATASETS" not in str(e.value)


def test_complete_data_set_passes(name, paths):
    register_panoptic(name, **paths)
    check_dataset(name)


@pytest.mark.parametrize(
    "builtin", ["ade20k_sem_seg_val", "coco_2017_val", "coco_2017_val_panoptic"]
)
def test_check_knows_the_data_sets_of_detectron2(builtin):
    with pytest.raises(FileNotFoundError, match=f"{builtin}.*DETECTRON2_DATASETS"):
        check_dataset(builtin)


def test_check_of_an_unknown_name():
    with pytest.raises(ValueError, match="'nonsense'.*shapes_train_panoptic"):
        check_dataset("nonsense")


def test_remote_files_are_not_looked_up(name):
    remote = "https://example.invalid/x"
    register_panoptic(
        name, image_root=remote, panoptic_root=remote, panoptic_json=remote, categories=CATEGORIES
    )
    check_dataset(name)


def test_root_follows_the_environment(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert datasets_root() == Path("datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert datasets_root() == Path.home() / "data"


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("task", "evaluator", "keys"),
    [
        ("panoptic", "coco_panoptic_seg", {"pan_seg_file_name", "sem_seg_file_name"}),
        ("semantic", "sem_seg", {"sem_seg_file_name"}),
        ("instance", "coco", {"annotations"}),
    ],
)
def test_shapes_are_registered(shapes_root, split, task, evaluator, keys):
    name = f"shapes_{split}_{task}"
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == evaluator
    assert metadata.prepare_command == "python -m tools.prepare_datasets shapes"
    check_dataset(name)
    records = DatasetCatalog.get(name)
    assert len(records) == len(list((shapes_root / "shapes" / split).iterdir()))
    if task != "semantic":  # Detectron2's loader knows no sizes
        keys = keys | {"image_id", "height", "width"}
    for record in records:
        assert keys | {"file_name"} <= record.keys()
        for key in record.keys() & {"file_name", "pan_seg_file_name", "sem_seg_file_name"}:
            assert Path(record[key]).is_file()


def test_shapes_metadata_agree_over_the_tasks():
    panoptic, semantic, instance = (
        MetadataCatalog.get(f"shapes_val_{task}") for task in ("panoptic", "semantic", "instance")
    )
    assert semantic.stuff_classes == panoptic.stuff_classes and len(semantic.stuff_classes) == 10
    assert instance.thing_classes == panoptic.thing_classes == semantic.stuff_classes[:6]
    things = panoptic.thing_dataset_id_to_contiguous_id
    stuff = panoptic.stuff_dataset_id_to_contiguous_id
    assert instance.thing_dataset_id_to_contiguous_id == things
    assert sorted([*things.values(), *stuff.values()]) == list(range(10))
    assert np.shape(semantic.stuff_colors) == (10, 3)


@pytest.fixture
def prepare_datasets():
    path = REPOSITORY / "tools" / "prepare_datasets.py"
    spec = importlib.util.spec_from_file_location("prepare_datasets", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_makes_what_is_named_under_the_root(prepare_datasets, tmp_path, capsys):
    prepare_datasets.DATASETS["other"] = lambda root: root / "made"
    prepare_datasets.main(["other", "--root", str(tmp_path)])
    assert str(tmp_path / "made") in capsys.readouterr().out


def test_command_knows_no_other_names(prepare_datasets, capsys):
    with pytest.raises(SystemExit):
        prepare_datasets.main(["imagenet"])
    assert "shapes" in capsys.readouterr().err
