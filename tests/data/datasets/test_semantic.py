"""A data set of two folders, registered by a user."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.data.datasets import register_semantic

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
