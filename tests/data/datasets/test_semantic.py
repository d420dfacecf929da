"""A data set of two folders, registered by a user."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.data.datasets import register_semantic
from mask_former.data.records import load_records, read_label_map
from mask_former.errors import UserError
from mask_former.evaluation import SemanticEvaluator

NAME = "test_semantic"


@pytest.fixture
def folders(tmp_path):
    for name in ("images/b.png", "images/a.png", "labels/b.tif", "labels/a.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / name)
    yield {"image_root": tmp_path / "images", "sem_seg_root": tmp_path / "labels"}
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_records_and_metadata(folders, tmp_path):
    register_semantic(
        NAME,
        **folders,
        classes=["road", "sky"],
        colors=[[1, 2, 3], [4, 5, 6]],
        ignore_label=99,
        image_suffix="png",
        label_suffix="tif",
    )
    metadata = MetadataCatalog.get(NAME)
    assert metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 99
    assert metadata.stuff_classes == ["road", "sky"] and metadata.stuff_colors[1] == [4, 5, 6]
    pairs = {(r["file_name"], r["sem_seg_file_name"]) for r in DatasetCatalog.get(NAME)}
    assert pairs == {
        (str(tmp_path / "images/a.png"), str(tmp_path / "labels/a.tif")),
        (str(tmp_path / "images/b.png"), str(tmp_path / "labels/b.tif")),
    }


def test_classes_from_the_data_sets_own_files(folders):
    found = {"stuff_classes": ["road"], "ignore_label": 7}
    register_semantic(NAME, **folders, read_metadata=lambda: found, ignore_label=None)
    metadata = MetadataCatalog.get(NAME)
    assert metadata.ignore_label == 7 and metadata.stuff_classes == ["road"]


def test_a_missing_folder_says_how_to_prepare_it(folders, tmp_path):
    folders["sem_seg_root"] = tmp_path / "gone"
    register_semantic(NAME, **folders, classes=["road"], prepare_command="make gone")
    with pytest.raises(FileNotFoundError, match=f"{NAME}.*gone.*`make gone`"):
        DatasetCatalog.get(NAME)


COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def write_labels(path, labels, kind):
    """A label map as `kind` of file."""
    if kind == "palette":
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette([part for color in COLORS for part in color])
    elif kind == "colors":
        image = Image.fromarray(np.uint8(COLORS)[labels])
    elif kind == "16 bits":
        image = Image.fromarray((labels * 1000).astype(np.uint16))
    elif kind == "binary":
        image = Image.fromarray(np.uint8(labels > 0) * 255)
    elif kind == "black and white":
        image = Image.fromarray(labels > 0)
    else:
        image = Image.fromarray(labels.astype(np.uint8))
    image.save(path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("grey", {}),
        ("palette", {}),
        ("palette", {"encoding": "colors", "colors": COLORS}),
        ("colors", {"colors": COLORS}),
        ("16 bits", {"label_values": [0, 1000, 2000]}),
        ("binary", {"encoding": "binary", "classes": ["sky", "car"]}),
        ("black and white", {"encoding": "binary", "classes": ["sky", "car"]}),
        ("black and white", {"classes": ["sky", "car"]}),
        ("grey", {"ignore": ["sky"]}),
        ("palette", {"ignore": [0], "classes": ["car", "tree"]}),
        ("colors", {"ignore": ["sky"], "colors": COLORS}),
        ("colors", {"ignore": [COLORS[0]], "colors": COLORS[1:], "classes": ["car", "tree"]}),
        ("binary", {"ignore": [0], "label_values": [255], "classes": ["car"]}),
    ],
)
def test_kinds_of_label_maps_in_training_and_evaluation(folders, tmp_path, kind, options):
    """All say the same: sky above, a car and, where there are three classes, a tree."""
    labels = np.zeros((4, 5), int)
    labels[2:, :3], labels[3:, 3:] = 1, 2
    for file in (tmp_path / "labels").iterdir():
        file.unlink()
    write_labels(tmp_path / "labels" / "a.png", labels, kind)
    register_semantic(NAME, **folders, **{"classes": ["sky", "car", "tree"], **options})

    names = list(MetadataCatalog.get(NAME).stuff_classes)
    if kind in ("binary", "black and white"):
        labels = np.minimum(labels, 1)
    expected = labels if names[0] == "sky" else np.where(labels == 0, 255, labels - 1)
    (record,) = load_records(NAME)
    assert read_label_map(record, (4, 5), len(names), 255).tolist() == expected.tolist()

    evaluator = SemanticEvaluator(NAME)
    evaluator.check_ground_truth()
    prediction = torch.from_numpy(np.where(expected == 255, 0, expected))
    evaluator.process([record], [{"sem_seg": prediction}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_colours_of_a_palette(folders, tmp_path):
    for file in (tmp_path / "labels").iterdir():
        file.unlink()
    write_labels(tmp_path / "labels" / "a.png", np.zeros((4, 5), int), "palette")
    register_semantic(NAME, **folders, classes=["sky", "car", "tree"], ignore=["sky"])
    assert MetadataCatalog.get(NAME).stuff_colors == COLORS[1:]


def test_without_a_palette_there_are_no_colours(folders):
    register_semantic(NAME, **folders, classes=["sky"])
    assert MetadataCatalog.get(NAME).get("stuff_colors") is None


def test_a_label_map_as_jpeg(folders, tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "labels" / "a.jpg")
    (tmp_path / "labels" / "a.tif").unlink()
    register_semantic(NAME, **folders, classes=["sky"], label_suffix=".jpg")
    (record,) = load_records(NAME)
    with pytest.raises(UserError, match="a.jpg is JPEG, which changes labels.* as PNG"):
        read_label_map(record, (4, 5), 1, 255)
