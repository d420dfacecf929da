"""What is wrong with a file or a record is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.annotated import HEIGHT, WIDTH, mapper


def error(cfg, name, record, kind=ValueError):
    with pytest.raises(kind) as info:
        mapper(cfg, name)(record)
    return str(info.value)


@pytest.mark.parametrize("id_", [0, 1000])
def test_segment_without_an_id_of_its_own(cfg, record, id_):
    record["segments_info"][1]["id"] = id_
    record["segments_info"][2]["id"] = 1000
    message = error(cfg, "mask_former_panoptic", record)
    assert record["pan_seg_file_name"] in message and "image 17" in message
    assert f"5000, {id_}, 1000, 4000" in message


def test_unknown_mapper(cfg):
    with pytest.raises(ValueError, match="'semantic', .* one of .*mask_former_semantic.*detr_pan"):
        mapper(cfg, "semantic")


FILES = [
    ("mask_former_semantic", "file_name"),
    ("mask_former_semantic", "sem_seg_file_name"),
    ("mask_former_panoptic", "pan_seg_file_name"),
]


@pytest.mark.parametrize("name, key", FILES)
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_damaged_file(cfg, record, name, key, damage):
    path = Path(record[key])
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"<html>404</html>",
            "cut": content[:-40],
            "flipped": content[:40] + bytes(255 - b for b in content[40:]),
        }[damage]
    )
    message = error(cfg, name, record)
    assert str(path) in message and "cannot be read as an image" in message


def test_partly_downloaded_jpeg(cfg, record, tmp_path):
    path = tmp_path / "image.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    assert str(path) in error(cfg, "mask_former_semantic", {**record, "file_name": str(path)})


@pytest.mark.parametrize("name, key", FILES)
def test_missing_file(cfg, record, name, key):
    Path(record[key]).unlink()
    message = error(cfg, name, record, FileNotFoundError)
    assert f"{record[key]} is missing" in message
    record[key] = "gone.png"
    assert f"gone.png (from {Path.cwd()})" in error(cfg, name, record, FileNotFoundError)


@pytest.mark.parametrize("name, key", FILES[1:])
def test_annotation_of_another_size(cfg, record, name, key):
    with Image.open(record[key]) as image:
        cropped = image.crop((0, 0, 30, 20))
    cropped.save(record[key])
    message = error(cfg, name, record)
    assert record[key] in message and record["file_name"] in message
    assert "30 x 20" in message and f"{WIDTH} x {HEIGHT}" in message


def test_record_of_another_size(cfg, record):
    record["width"] = 35
    message = error(cfg, "mask_former_semantic", record)
    assert record["file_name"] in message and "36 x 24" in message and "35 x 24" in message


def test_labels_out_of_range(cfg, record):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    message = error(cfg, "mask_former_semantic", record)
    assert record["sem_seg_file_name"] in message and "labels 3, 4," in message
    assert "0..2" in message and "255" in message


def test_another_ignore_value(cfg, record):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 254
    assert "labels 255," in error(cfg, "mask_former_semantic", record)


def test_colour_image_as_label_map(cfg, record):
    record["sem_seg_file_name"] = record["pan_seg_file_name"]
    message = error(cfg, "mask_former_semantic", record)
    assert record["sem_seg_file_name"] in message and "one channel" in message


def test_segment_that_the_record_does_not_know(cfg, record):
    del record["segments_info"][1]  # id 2000
    message = error(cfg, "detr_panoptic", record)
    assert record["pan_seg_file_name"] in message and "ids 2000," in message and "17" in message


def test_categories_out_of_range(cfg, record):
    record["segments_info"][1]["category_id"] = 5
    message = error(cfg, "mask_former_panoptic", record)
    assert record["pan_seg_file_name"] in message and "category ids 5," in message
    record["annotations"][1]["category_id"] = -1
    message = error(cfg, "mask_former_instance", record)
    assert record["file_name"] in message and "category ids -1," in message


@pytest.mark.parametrize("segmentation", [None, [], [1, 1, 5, 5, 1, 5], [[1, 1], [5, 5], [1, 5]]])
def test_instance_without_a_mask(cfg, record, segmentation):
    record["annotations"].append({"id": 99, "category_id": 0, "segmentation": segmentation})
    message = error(cfg, "mask_former_instance", record)
    assert record["file_name"] in message and "annotation 99" in message and "A mask is" in message


def test_instance_mask_of_another_size(cfg, record):
    rle = {"size": [8, 8], "counts": [10, 54]}
    record["annotations"].append({"category_id": 0, "segmentation": rle})
    message = error(cfg, "mask_former_instance", record)
    assert record["file_name"] in message and "[8, 8]" in message


@pytest.mark.parametrize(
    "name, key",
    [
        ("mask_former_semantic", "sem_seg_file_name"),
        ("mask_former_panoptic", "pan_seg_file_name"),
        ("mask_former_panoptic", "segments_info"),
        ("mask_former_instance", "annotations"),
    ],
)
def test_record_of_another_kind_of_data_set(cfg, record, name, key):
    del record[key]
    message = error(cfg, name, record)
    assert key in message and "INPUT.DATASET_MAPPER_NAME" in message
