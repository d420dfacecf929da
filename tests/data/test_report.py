"""All faults of data sets at once, what is unusual, and what they hold."""

import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.data import json_files
from mask_former.data.datasets import register_instances, register_panoptic, register_semantic
from mask_former.data.report import examine
from mask_former.engine.config import load_config
from tests.data.small_coco import CATEGORIES, HEIGHT, THINGS, WIDTH, rectangle, write_json

NAMES = "test_report_train", "test_report_val"


@pytest.fixture(autouse=True)
def clean():
    yield
    for name in NAMES:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    json_files.forget_files()


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def image(path, number):
    save(path, np.full((HEIGHT, WIDTH, 3), number))


def colors(*ids):
    """A panoptic PNG of stripes."""
    found = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    found[..., 0] = np.repeat(ids, WIDTH // len(ids))
    return found


def coco(**content):
    images = [
        {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
        for number in range(8)
    ]
    return {"images": images, **content}


def report(mapper, names=NAMES[:1], **options):
    options |= {"INPUT.DATASET_MAPPER_NAME": mapper, "MODEL.META_ARCHITECTURE": "MaskFormer"}
    options |= {"DATASETS.TRAIN": names[:1], "DATASETS.TEST": names[1:]}
    cfg = load_config(opts=[x for pair in options.items() for x in pair])
    return examine(cfg, workers=1)


def found(entries, kind):
    return [entry.message for entry in entries if entry.kind == kind]


def test_all_faults_of_a_panoptic_data_set(tmp_path):
    content = coco(
        annotations=[
            {
                "image_id": number,
                "file_name": f"{number}.png",
                "segments_info": [{"id": 5, "category_id": 1}, {"id": 7, "category_id": 2}],
            }
            for number in range(8)
        ],
        categories=CATEGORIES,
    )
    for number in range(8):
        image(tmp_path / "images" / f"{number}.png", number)
        save(tmp_path / "labels" / f"{number}.png", colors(5, 7))
    content["images"][0]["height"] = "40"
    content["annotations"][1]["segments_info"] += [
        {"id": 0, "category_id": 1},
        {"id": 9, "category_id": 3},
    ]
    (tmp_path / "images" / "2.png").unlink()
    (tmp_path / "images" / "3.png").write_bytes(b"GIF")
    save(tmp_path / "labels" / "3.png", colors(5, 8))  # both files of an image are wrong
    save(tmp_path / "labels" / "4.png", colors(5, 7)[:-1])
    save(tmp_path / "images" / "5.png", np.zeros((WIDTH, HEIGHT, 3)))
    save(tmp_path / "labels" / "6.png", colors(7))  # without segment 5
    register_panoptic(
        NAMES[0],
        image_root=tmp_path / "images",
        panoptic_root=tmp_path / "labels",
        panoptic_json=write_json(tmp_path / "x.json", content),
    )
    (result,) = report("mask_former_panoptic")

    faults = result.all_faults()
    assert [fault.kind for fault in faults[:3]] == ["json"] * 3
    kinds = [fault.kind for fault in faults[3:]]
    assert kinds == ["missing", "image", "annotation", "annotation", "image"]
    expected = [
        r"x\.json: image 0: its height is text",
        r"annotation of image 1: the id of a segment is a number, 0",
        r"annotation of image 1, segment 9 has the category_id 3, which no category has",
        r"images/2\.png is missing",
        r"images/3\.png cannot be read",
        r"labels/3\.png holds the segment ids 8, not in the segments_info of image 3",
        r"labels/4\.png is 50 x 39 .* its image .*4\.png is 50 x 40",
        r"images/5\.png is 40 x 50 .* its record says 50 x 40",
    ]
    for fault, pattern in zip(faults, expected, strict=True):
        assert re.search(pattern, fault.message), (pattern, fault)
    assert [fault.file.rpartition("/")[2] for fault in faults[3:]] == [
        f"{number}.png" for number in (2, 3, 3, 4, 5)
    ]
    remarks = result.all_remarks()
    assert found(remarks, "invisible") == ["segment 5 of the JSON has no pixel in the PNG"]
    assert len(remarks) == 1


@pytest.mark.parametrize(("applied", "said"), [(True, "is applied"), (False, "is not applied")])
def test_pictures_that_exif_turns_upside_down_are_named(tmp_path, applied, said):
    content = coco(annotations=[rectangle(1, 0, 0, 0, 10, 1)], categories=THINGS)
    del content["images"][2:]
    exif = Image.Exif()
    for number, exif[0x0112] in enumerate((3, 1)):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0))
        (tmp_path / "images").mkdir(exist_ok=True)
        picture.save(tmp_path / "images" / f"{number}.png", exif=exif)
    register_instances(
        NAMES[0],
        image_root=tmp_path / "images",
        json_file=write_json(tmp_path / "x.json", content),
    )
    (result,) = report("mask_former_instance", **{"INPUT.EXIF_ORIENTATION": applied})
    assert result.all_faults() == []
    (message,) = found(result.all_remarks(), "orientation")
    assert f"orientation 3 {said}" in message
    assert f"INPUT.EXIF_ORIENTATION {not applied} is" in message


def test_what_a_data_set_of_instances_holds(tmp_path):
    annotations = [
        rectangle(1, 0, 10, 10, 20, 1),
        rectangle(2, 0, 10, 11, 20, 1),  # 380 of 420 pixels
        rectangle(3, 1, 0, 0, 10, 1),
        rectangle(4, 1, 2, 0, 10, 1),  # 80 of 120
        rectangle(5, 1, 30, 0, 10, 1),
        {**rectangle(6, 2, 0, 0, 30, 1), "iscrowd": 1},
    ]
    content = coco(annotations=annotations, categories=THINGS)
    del content["images"][4:]
    for number in range(3):
        image(tmp_path / "images" / f"{number}.png", number)
    image(tmp_path / "images" / "3.png", 0)
    register_instances(
        NAMES[0],
        image_root=tmp_path / "images",
        json_file=write_json(tmp_path / "x.json", content),
    )
    options = {"MODEL.META_ARCHITECTURE": "EoMT", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 2}
    (result,) = report("mask_former_instance", **options)
    assert result.all_faults() == []
    remarks = result.all_remarks()
    assert found(remarks, "duplicate") == ["annotations 1 and 2 share 90% of their union"]
    assert found(remarks, "overlap") == ["annotations 3 and 4 share 67% of their union"]
    assert [r.file[-5:] for r in remarks if r.kind == "empty"] == ["2.png", "3.png"]
    assert "the same picture as" in found(remarks, "copy")[0]
    assert "0.png" in found(remarks, "copy")[0]
    assert found(remarks, "class") == ["classes that never occur: dog (1 of 2)"]
    assert "1 of 4 images have more segments" in found(remarks, "queries")[0]
    assert "1 are crowds" in found(remarks, "annotations")[0]

    content = result.as_dict()
    assert content["classes"] == [
        {"name": "cat", "images": 2, "segments": 5, "pixels": 400 + 400 + 300},
        {"name": "dog", "images": 0, "segments": 0, "pixels": 0},
    ]
    assert content["sizes"] == [{"height": HEIGHT, "width": WIDTH, "images": 4}]
    assert content["segments_per_image"] == [
        {"segments": 0, "images": 2},
        {"segments": 2, "images": 1},
        {"segments": 3, "images": 1},
    ]
    # 420 pixels of two, 220 of three, 900 of a crowd; one image has none.
    assert content["annotated_share"] == pytest.approx((420 + 220 + 900) / (4 * 2000))


@pytest.fixture
def semantic(tmp_path):
    for split, name in zip(("train", "val"), NAMES, strict=True):
        for number in range(3):
            image(tmp_path / split / f"{number}.png", 100 * (split == "val") + number)
            save(tmp_path / f"{split}_labels" / f"{number}.png", [[0] * 30 + [1] * 20] * HEIGHT)
        register_semantic(
            name,
            image_root=tmp_path / split,
            sem_seg_root=tmp_path / f"{split}_labels",
            image_suffix="png",
            classes=["sky", "tree", "lake"],
        )
    return tmp_path


def test_label_maps(semantic):
    save(semantic / "train_labels" / "0.png", [[0] * 20 + [3] * 20 + [200] * 10] * HEIGHT)
    save(semantic / "train_labels" / "1.png", [[255] * WIDTH] * HEIGHT)
    train, val = report("mask_former_semantic", NAMES)
    (fault,) = train.all_faults()
    assert fault.kind == "annotation" and "holds the values 3, 200, but" in fault.message
    (empty,) = [remark for remark in train.all_remarks() if remark.kind == "empty"]
    assert empty.file == str(semantic / "train" / "1.png")
    assert [entry["pixels"] for entry in train.class_counts()] == [1200, 800, 0]
    assert val.all_faults() == []
    assert [entry["images"] for entry in val.class_counts()] == [3, 3, 0]
    assert val.annotated_share() == 1


def test_files_without_a_partner(semantic):
    (semantic / "train_labels" / "1.png").unlink()
    (result,) = report("mask_former_semantic")
    assert len(result.inspections) == 2 and result.all_faults() == []
    assert "1 images are left out" in found(result.all_remarks(), "annotations")[0]


def test_pictures_that_are_trained_on_and_evaluated(semantic):
    (semantic / "val" / "2.png").write_bytes((semantic / "train" / "1.png").read_bytes())
    train, val = report("mask_former_semantic", NAMES)
    assert found(train.all_remarks(), "leak") == []
    (leak,) = [remark for remark in val.all_remarks() if remark.kind == "leak"]
    assert leak.file.endswith("val/2.png") and "train/1.png" in leak.message


def test_data_sets_that_do_not_go_together(semantic):
    DatasetCatalog.remove(NAMES[1])
    MetadataCatalog.remove(NAMES[1])
    register_semantic(
        NAMES[1],
        image_root=semantic / "val",
        sem_seg_root=semantic / "val_labels",
        classes=["sky", "lake", "tree"],
    )
    train, val = report("mask_former_semantic", NAMES)
    assert train.all_faults() == []
    assert "differ in their classes: class 1 is 'tree'" in found(val.all_faults(), "data set")[0]


def test_a_data_set_that_is_not_there(semantic):
    for path in (semantic / "val").iterdir():
        path.unlink()
    (semantic / "val").rmdir()
    train, val = report("mask_former_semantic", NAMES)
    assert len(train.inspections) == 3 and train.all_faults() == []
    assert "val" in found(val.all_faults(), "missing")[0]


def test_examples_show_every_class(semantic):
    save(semantic / "train_labels" / "2.png", [[2] * WIDTH] * HEIGHT)
    (result,) = report("mask_former_semantic")
    assert [record["file_name"][-5:] for record in result.examples(2)] == ["1.png", "2.png"]
    assert len(result.examples(9)) == 3
    (semantic / "train" / "2.png").unlink()
    (result,) = report("mask_former_semantic")
    assert len(result.examples(9)) == 2
