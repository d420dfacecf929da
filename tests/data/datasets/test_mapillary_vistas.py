"""Mapillary Vistas 1.2 in miniature: checked, registered, trained on and evaluated."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.coco_format import encode_ids, shape_info
from mask_former.data.datasets.mapillary_vistas import (
    prepare_mapillary_vistas,
    register_mapillary_vistas,
)
from tests.data.datasets.cycle import (
    cfg_of,
    empty_catalogs,
    evaluate,
    picture,
    train_step,
    write,
)

NAME = "_1Gn_xkw7sa_i9GU4mkxxQ"
THINGS = (0, 55)
LABELS = [
    {
        "name": f"group--class-{index}" if index < 65 else "void--unlabeled",
        "readable": f"Class {index}",
        "instances": index in THINGS,
        "evaluate": index < 65,
        "color": [index, 0, 255 - index],
    }
    for index in range(66)
]
# Segment id -> label.
SEGMENTS = {5000: 13, 70001: 64, 21: 55, 22: 55}


def id_map() -> np.ndarray:
    ids = np.zeros((32, 48), dtype=np.int32)  # the last row is unlabelled
    ids[:16], ids[16:31] = 5000, 70001
    ids[18:26, 4:12], ids[18:26, 20:28] = 21, 22
    return ids


def label_map() -> np.ndarray:
    labels = np.full((32, 48), 65, dtype=np.uint8)
    for id_, label in SEGMENTS.items():
        labels[id_map() == id_] = label
    return labels


def panoptic_json(ids) -> dict:
    segments = [
        {"id": id_, "category_id": label + 1, "iscrowd": 0, **shape_info(ids == id_)}
        for id_, label in SEGMENTS.items()
    ]
    categories = [
        {
            "supercategory": "any",
            "isthing": int(label["instances"]),
            "id": index + 1,
            "name": label["readable"],
            "color": label["color"],
        }
        for index, label in enumerate(LABELS[:-1])
    ]
    return {
        "images": [{"id": NAME, "file_name": f"{NAME}.jpg", "width": 48, "height": 32}],
        "annotations": [{"image_id": NAME, "file_name": f"{NAME}.png", "segments_info": segments}],
        "categories": categories,
    }


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of data sets, with Vistas as it is unpacked."""
    top = tmp_path / "datasets" / "mapillary_vistas"
    ids, labels = id_map(), label_map()
    for split in ("training", "validation"):
        folder = top / split
        write(folder / "images" / f"{NAME}.jpg", picture(32, 48))
        write(folder / "labels" / f"{NAME}.png", labels, "P")
        write(folder / "instances" / f"{NAME}.png", labels.astype(np.uint16) * 256)
        write(folder / "panoptic" / f"{NAME}.png", encode_ids(ids))
        (folder / "panoptic" / "panoptic_2018.json").write_text(json.dumps(panoptic_json(ids)))
    config = {"labels": LABELS, "version": "1.1", "mapping": "public", "folder_structure": "any"}
    (top / "config.json").write_text(json.dumps(config))
    empty_catalogs(monkeypatch)
    register_mapillary_vistas(tmp_path / "datasets")
    return tmp_path / "datasets"


def test_complete_download(root):
    assert prepare_mapillary_vistas(root) == root / "mapillary_vistas"


def test_metadata(root):
    semantic = MetadataCatalog.get("mapillary_vistas_sem_seg_val")
    assert semantic.stuff_classes == [f"Class {index}" for index in range(65)]
    assert semantic.stuff_colors[3] == [3, 0, 252]
    assert semantic.ignore_label == 65
    panoptic = MetadataCatalog.get("mapillary_vistas_panoptic_val")
    assert panoptic.stuff_classes == semantic.stuff_classes and panoptic.ignore_label == 65
    assert panoptic.thing_dataset_id_to_contiguous_id == {1: 0, 56: 55}


def test_semantic(root, tmp_path):
    name = "mapillary_vistas_sem_seg_train"
    cfg = cfg_of(name, 65, tmp_path, "SEMANTIC_ON", ignore_value=65)
    assert train_step(cfg)["instances"].gt_classes.tolist() == [13, 55, 64]
    assert evaluate(cfg)["sem_seg"]["mIoU"] == pytest.approx(100)

    def shifted(output):
        """Class 64 begins 8 rows late, for class 13."""
        scores = output["sem_seg"].clone()
        scores[:, 16:24] = 0
        scores[13, 16:24] = 1
        return {"sem_seg": scores}

    # The rows 16 to 23 hold 6 x 16 pixels of the things and 8 x 48 - 96 of class 64.
    things, stuff = 8 * 16, 15 * 48 - 8 * 16
    iou = [16 * 48 / (24 * 48), (things - 96) / things, (stuff - (8 * 48 - 96)) / stuff]
    assert evaluate(cfg, shifted)["sem_seg"]["mIoU"] == pytest.approx(100 * np.mean(iou))


def test_panoptic(root, tmp_path):
    name = "mapillary_vistas_panoptic_train"
    cfg = cfg_of(name, 65, tmp_path, "PANOPTIC_ON", "SEMANTIC_ON", ignore_value=65)
    assert sorted(train_step(cfg)["instances"].gt_classes.tolist()) == [13, 55, 55, 64]
    figures = evaluate(cfg)
    assert figures["panoptic_seg"]["PQ"] == figures["sem_seg"]["mIoU"] == pytest.approx(100)

    def merged(output):
        """Both things are one: neither has an overlap of more than a half."""
        ids, segments = output["panoptic_seg"]
        return {
            "panoptic_seg": (ids.where(ids != 22, 21), [s for s in segments if s["id"] != 22]),
            "sem_seg": output["sem_seg"],
        }

    assert evaluate(cfg, merged)["panoptic_seg"]["PQ"] == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize(
    "missing", ["config.json", f"training/labels/{NAME}.png", f"validation/panoptic/{NAME}.png"]
)
def test_incomplete_download(root, missing):
    (root / "mapillary_vistas" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing.split("/")[-1]):
        prepare_mapillary_vistas(root)


def test_another_version(root):
    config = root / "mapillary_vistas" / "config.json"
    config.write_text(json.dumps({"labels": LABELS[:-1]}))
    with pytest.raises(ValueError, match="config_v1.2.json"):
        DatasetCatalog.get("mapillary_vistas_panoptic_val")


def test_categories_of_another_version(root):
    path = root / "mapillary_vistas" / "training" / "panoptic" / "panoptic_2018.json"
    content = panoptic_json(id_map())
    content["categories"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="64 categories"):
        prepare_mapillary_vistas(root)


def test_classes_that_disagree(root):
    path = root / "mapillary_vistas" / "training" / "labels" / f"{NAME}.png"
    write(path, np.where(label_map() == 13, 14, label_map()).astype(np.uint8), "P")
    with pytest.raises(
        ValueError, match=r"category 14 \(class 13\), but the semantic labels say 14"
    ):
        prepare_mapillary_vistas(root)
