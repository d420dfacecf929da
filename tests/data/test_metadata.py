import json

import pytest
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mask_former.data.checks import check_classes
from mask_former.data.metadata import read_metadata
from mask_former.engine import get_cfg

NAME = "test_metadata_instances"


@pytest.fixture
def annotation(tmp_path):
    """A data set as Detectron2's users register theirs; it knows its classes once it is read."""
    path = tmp_path / "instances.json"
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    register_coco_instances(NAME, {}, str(path), str(tmp_path))
    yield path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_classes_that_detectron2_learns_late(annotation):
    metadata = read_metadata(NAME)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_their_number_is_checked(annotation):
    cfg = get_cfg()
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    with pytest.raises(ValueError, match=f"{NAME}.* 2 classes"):
        check_classes(cfg, NAME)


def test_a_missing_annotation_is_named(annotation):
    annotation.unlink()
    with pytest.raises(FileNotFoundError, match=f"{NAME}.*{annotation}"):
        read_metadata(NAME)


def test_classes_that_are_known_cost_no_reading(annotation):
    annotation.unlink()
    MetadataCatalog.get(NAME).set(thing_classes=["cat", "dog"])
    assert read_metadata(NAME).thing_classes == ["cat", "dog"]


def test_what_is_not_registered_has_empty_metadata():
    metadata = read_metadata("test_metadata_nowhere")
    MetadataCatalog.remove("test_metadata_nowhere")
    assert isinstance(metadata, Metadata) and not metadata.get("thing_classes")
