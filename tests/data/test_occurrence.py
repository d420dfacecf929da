"""Remarks on classes that do not occur, ignored labels, and too many segments."""

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from mask_former.data.label_encoding import LabelEncoding
from mask_former.data.occurrence import class_remarks, segment_remarks
from mask_former.engine.config import load_config
from mask_former.errors import UserError

NAME = "test_occurrence"


@pytest.fixture
def semantic(tmp_path):
    """Records whose label maps hold the given labels, side by side."""

    def semantic(*maps):
        records = []
        for number, labels in enumerate(maps):
            path = str(tmp_path / f"{number}.png")
            Image.fromarray(np.uint8([labels] * 10)).save(path)
            size = {"height": 10, "width": len(labels)}
            records.append({"file_name": path, "sem_seg_file_name": path, **size})
        return records

    MetadataCatalog.get(NAME).stuff_classes = ["background", "foreground"]
    yield semantic
    MetadataCatalog.remove(NAME)


def config(**options):
    options = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2, **options}
    return load_config(opts=[x for pair in options.items() for x in pair])


def test_masks_of_0_and_255(semantic):
    remark, *others = class_remarks(config(), NAME, semantic([0, 0, 0, 255], [0, 0, 0, 0]))
    assert not others and f"{NAME!r}: in 2 of 2 label maps" in remark
    assert (
        "classes that never occur: foreground (1 of 2); the label 255" in remark
        and "12.5%" in remark
    )


def test_masks_of_0_and_255_of_ones_own(semantic):
    encoding = LabelEncoding("auto", {0: 0, 1: 1, 255: 255})
    records = [{**r, "label_encoding": encoding} for r in semantic([0, 0, 0, 255], [0, 0, 0, 0])]
    with pytest.raises(UserError, match="only 'background' and the value 255.*ENCODING to binary"):
        class_remarks(config(), NAME, records)


def test_all_classes_occur(semantic):
    assert class_remarks(config(), NAME, semantic([0, 0], [0, 1])) == []


def test_an_ignored_class_need_not_be_learned(semantic):
    cfg = config(**{"MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 0})
    assert class_remarks(cfg, NAME, semantic([0, 1])) == []


def test_everything_is_ignored(semantic):
    remark = class_remarks(config(), NAME, semantic([255, 255]))[0]
    assert "IGNORE_VALUE" in remark and "fills everything" in remark


def test_few_maps_of_many_say_nothing_about_many_classes(semantic, monkeypatch):
    monkeypatch.setattr("mask_former.data.occurrence._NUM_MAPS", 8)
    assert class_remarks(config(), NAME, semantic(*[[0]] * 20)) == []
    monkeypatch.setattr("mask_former.data.occurrence._NUM_MAPS", 12)
    assert "in 12 of 20 label maps" in class_remarks(config(), NAME, semantic(*[[0]] * 20))[0]


def test_a_label_that_is_no_class(semantic):
    with pytest.raises(ValueError, match=rf"{NAME}.*0\.png holds the labels 2,"):
        class_remarks(config(), NAME, semantic([0, 2]))


def records(*counts):
    segments = [[{"category_id": 0, "iscrowd": 0}] * count for count in counts]
    segments[0].append({"category_id": 1, "iscrowd": 1})
    return [{"file_name": "x", "segments_info": found} for found in segments]


def test_more_segments_than_queries():
    cfg = config(**{"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 5})
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    assert segment_remarks(cfg, NAME, records(5, 4)) == []
    remark = segment_remarks(cfg, NAME, records(5, 6, 9))[0]
    assert f"{NAME!r}: 2 of 3 images" in remark and "QUERIES is 5), up to 9" in remark
    assert "5 of 20 segments" in remark


def test_classes_without_a_segment(semantic):
    cfg = config(**{"INPUT.DATASET_MAPPER_NAME": "mask_former_panoptic"})
    assert class_remarks(cfg, NAME, records(1)) == []  # the crowd is of the other class
    one = [{"file_name": "x", "segments_info": [{"category_id": 0}]}]
    assert "classes that never occur: foreground (1 of 2)" in class_remarks(cfg, NAME, one)[0]
