"""COCO 2017 in miniature: prepared, registered, trained on and evaluated."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from mask_former.data.coco_format import encode_ids, segmentation, shape_info
from mask_former.data.datasets.coco import prepare_coco, register_coco
from tests.data.datasets.cycle import (
    cfg_of,
    empty_catalogs,
    evaluate,
    picture,
    read,
    register_detectron2,
    train_step,
    write,
)

PERSON, BANNER, RUG = 1, 92, 200  # ids of COCO; BANNER is the first kind of stuff, RUG the last
# Segment id -> category id, crowd. Ids use all three channels of the PNG.
SEGMENTS = {
    70000: (BANNER, 0),
    300: (RUG, 0),
    7: (PERSON, 0),
    8: (PERSON, 0),
    9: (PERSON, 1),
}
NAME = "000000000139"


def id_map() -> np.ndarray:
    ids = np.zeros((32, 48), dtype=np.int32)  # the last row is unlabelled
    ids[:16], ids[16:31] = 70000, 300
    ids[18:26, 4:12], ids[18:26, 20:28], ids[18:26, 36:44] = 7, 8, 9
    return ids


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of data sets, with COCO as it is unpacked."""
    folder = tmp_path / "datasets" / "coco"
    ids = id_map()
    segments = [
        {"id": id_, "category_id": category, "iscrowd": crowd, **shape_info(ids == id_)}
        for id_, (category, crowd) in SEGMENTS.items()
    ]
    image = {"license": 2, "file_name": f"{NAME}.jpg", "height": 32, "width": 48, "id": 139}
    categories = [
        {"supercategory": "any", "isthing": c["isthing"], "id": c["id"], "name": c["name"]}
        for c in COCO_CATEGORIES
    ]
    panoptic = {
        "info": {},
        "licenses": [],
        "images": [image],
        "annotations": [{"segments_info": segments, "file_name": f"{NAME}.png", "image_id": 139}],
        "categories": categories,
    }
    things = [
        {
            **segment,
            "image_id": 139,
            "segmentation": segmentation(ids == segment["id"], bool(segment["iscrowd"])),
        }
        for segment in segments
        if segment["category_id"] == PERSON
    ]
    instances = {
        "images": [image],
        "annotations": things,
        "categories": [c for c in categories if c["isthing"]],
    }
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        write(folder / f"{split}2017" / f"{NAME}.jpg", picture(32, 48))
        write(folder / f"panoptic_{split}2017" / f"{NAME}.png", encode_ids(ids))
        for kind, content in (("panoptic", panoptic), ("instances", instances)):
            path = folder / "annotations" / f"{kind}_{split}2017.json"
            path.write_text(json.dumps(content))
    empty_catalogs(monkeypatch)
    register_detectron2(folder.parent)
    register_coco(folder.parent)
    return folder.parent


def test_semantic_labels(root):
    prepare_coco(root)
    labels = read(root / "coco" / "panoptic_semseg_val2017" / f"{NAME}.png")
    assert labels.dtype == np.uint8 and labels.shape == (32, 48)
    expected = np.full((32, 48), 255)
    expected[:16], expected[16:31] = 80, 132
    expected[18:26, 4:12] = expected[18:26, 20:28] = expected[18:26, 36:44] = 0  # with the crowd
    np.testing.assert_array_equal(labels, expected)
    assert (root / "coco" / "panoptic_semseg_train2017" / f"{NAME}.png").is_file()


def test_metadata(root):
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    builtin = MetadataCatalog.get("coco_2017_val_panoptic")
    assert len(metadata.thing_classes) == 80 and len(metadata.stuff_classes) == 133
    assert metadata.stuff_classes == builtin.stuff_classes
    for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"):
        assert metadata.get(key) == builtin.get(key)


@pytest.mark.parametrize("name", ["coco_2017_val_panoptic_with_sem_seg", "coco_2017_val_panoptic"])
def test_panoptic(root, tmp_path, name):
    prepare_coco(root)
    cfg = cfg_of(name, 133, tmp_path, "PANOPTIC_ON", "INSTANCE_ON")
    sample = train_step(cfg)
    assert sorted(sample["instances"].gt_classes.tolist()) == [0, 0, 80, 132]  # no crowd
    figures = evaluate(cfg)
    assert figures["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert figures["segm"]["AP"] == figures["bbox"]["AP"] == pytest.approx(100)


def without_a_person(output):
    ids, segments = output["panoptic_seg"]
    segments = [segment for segment in segments if segment["id"] != 8]
    return {
        "panoptic_seg": (ids.where(ids != 8, 0), segments),
        "instances": output["instances"][:1],
    }


def test_panoptic_of_a_missed_instance(root, tmp_path):
    cfg = cfg_of("coco_2017_val_panoptic", 133, tmp_path, "PANOPTIC_ON", "INSTANCE_ON")
    figures = evaluate(cfg, without_a_person)
    # One found, one missed: RQ 1 / (1 + 1 / 2). The stuff is right.
    assert figures["panoptic_seg"]["PQ_th"] == pytest.approx(100 * 2 / 3)
    assert figures["panoptic_seg"]["PQ"] == pytest.approx(100 * (2 / 3 + 2) / 3)
    # Precision 1 at the recalls 0, 0.01 ... 0.50 of COCO's 101.
    assert figures["segm"]["AP"] == pytest.approx(100 * 51 / 101)


def test_instance(root, tmp_path):
    cfg = cfg_of("coco_2017_val", 80, tmp_path, "INSTANCE_ON")
    assert train_step(cfg)["instances"].gt_classes.tolist() == [0, 0]
    assert evaluate(cfg)["segm"]["AP"] == pytest.approx(100)
    one = evaluate(cfg, lambda output: {"instances": output["instances"][:1]})
    assert one["segm"]["AP"] == pytest.approx(100 * 51 / 101)


def test_semantic(root, tmp_path):
    prepare_coco(root)
    cfg = cfg_of("coco_2017_val_panoptic_with_sem_seg", 133, tmp_path, "SEMANTIC_ON")
    assert train_step(cfg)["instances"].gt_classes.tolist() == [0, 80, 132]
    assert evaluate(cfg)["sem_seg"]["mIoU"] == pytest.approx(100)

    def shifted(output):
        """Everything is a banner in the upper half and 8 rows more."""
        scores = output["sem_seg"].clone()
        scores[:, 16:24] = 0
        scores[80, 16:24] = 1
        return {"sem_seg": scores}

    # Rows 16 to 23 hold 6 x 24 pixels of persons and 8 x 48 - 144 of rug.
    persons, rug = 8 * 24, 15 * 48 - 8 * 24
    iou = [(persons - 144) / persons, 16 * 48 / (24 * 48), (rug - (8 * 48 - 144)) / rug]
    assert evaluate(cfg, shifted)["sem_seg"]["mIoU"] == pytest.approx(100 * np.mean(iou))


def test_preparation_is_resumed(root):
    path = root / "coco" / "panoptic_semseg_val2017" / f"{NAME}.png"
    prepare_coco(root)
    before = path.stat().st_mtime_ns
    prepare_coco(root)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "missing",
    [f"panoptic_val2017/{NAME}.png", f"train2017/{NAME}.jpg", "annotations/panoptic_val2017.json"],
)
def test_incomplete_download(root, missing):
    (root / "coco" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing.split("/")[1]):
        prepare_coco(root)


def test_labels_of_another_version(root):
    path = root / "coco" / "panoptic_train2017" / f"{NAME}.png"
    write(path, encode_ids(id_map() + 1))
    with pytest.raises(ValueError, match=f"{NAME}.png holds segment ids"):
        prepare_coco(root)


def test_unprepared(root):
    with pytest.raises(FileNotFoundError, match="python -m tools.prepare_datasets coco`"):
        DatasetCatalog.get("coco_2017_val_panoptic_with_sem_seg")
