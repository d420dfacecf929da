import numpy as np
import pytest
from detectron2.data import Metadata
from PIL import Image

from mask_former.visualization import draw_ground_truth, draw_panoptic, draw_semantic

METADATA = Metadata(stuff_classes=["cat", "dog"], thing_classes=["cat"], ignore_label=255)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_panoptic(tmp_path, image):
    ids = np.zeros((40, 50), np.int32)
    ids[:20], ids[20:, 10:] = 300, 70000
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "ids.png")
    record = {
        "file_name": "image.jpg",
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": [{"id": 300, "category_id": 0}, {"id": 70000, "category_id": 1}],
    }
    expected = draw_panoptic(image, ids, record["segments_info"], METADATA, scale=2)
    assert np.array_equal(draw_ground_truth(image, record, METADATA, scale=2), expected)


def test_semantic(tmp_path, image):
    labels = np.full((40, 50), 255, np.uint8)
    labels[:20], labels[30:] = 0, 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {"file_name": "image.jpg", "sem_seg_file_name": str(tmp_path / "labels.png")}
    expected = draw_semantic(image, labels, METADATA)
    assert np.array_equal(draw_ground_truth(image, record, METADATA), expected)


def square(left, **more):
    right = left + 20.0
    polygon = [left, 10.0, right, 10.0, right, 30.0, left, 30.0]
    return {"category_id": 0, "segmentation": [polygon], **more}


def test_crowds_are_drawn_as_such(image):
    record = {"file_name": "image.jpg", "annotations": [square(0.0, iscrowd=1), square(25.0)]}
    ids = np.zeros((40, 50), np.int32)
    ids[10:30, 25:45], ids[10:30, :20] = 1, 2
    infos = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 0, "iscrowd": True}]
    expected = draw_panoptic(image, ids, infos, METADATA, scale=4)
    assert np.array_equal(draw_ground_truth(image, record, METADATA, scale=4), expected)


def test_instances(image):
    polygon = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]
    record = {
        "file_name": "image.jpg",
        "annotations": [{"category_id": 0, "segmentation": [polygon]}],
    }
    ids = np.zeros((40, 50), np.int32)
    ids[10:30, 10:30] = 1
    expected = draw_panoptic(image, ids, [{"id": 1, "category_id": 0}], METADATA)
    assert np.array_equal(draw_ground_truth(image, record, METADATA), expected)
