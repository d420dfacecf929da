"""Cityscapes in miniature: prepared, registered, trained on and evaluated."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from mask_former.data.datasets.cityscapes import (
    explain_builtin_cityscapes,
    prepare_cityscapes,
    register_cityscapes,
)
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

STEM = "aachen_000000_000019"
ROAD, SKY, CAR = 7, 23, 26  # ids of Cityscapes; their classes are 0, 10 and 13
CLASSES = {ROAD: 0, SKY: 10, CAR: 13}


def id_map() -> np.ndarray:
    ids = np.zeros((64, 96), dtype=np.uint16)  # the last rows are unlabelled
    ids[:24], ids[24:60] = SKY, ROAD
    ids[30:45, 4:24], ids[30:45, 30:50] = 26000, 26001  # two cars
    ids[30:45, 60:80] = CAR  # a group
    ids[50:58, 4:24] = 29000  # a caravan, which is not evaluated
    return ids


def class_map() -> np.ndarray:
    ids = id_map()
    labels = np.where(ids < 1000, ids, ids // 1000)
    return np.vectorize(lambda label: CLASSES.get(label, 255))(labels).astype(np.uint8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of data sets, with Cityscapes as it is unpacked."""
    top = tmp_path / "datasets" / "cityscapes"
    ids = id_map()
    for split in ("train", "val"):
        write(top / "leftImg8bit" / split / "aachen" / f"{STEM}_leftImg8bit.png", picture(64, 96))
        labels = top / "gtFine" / split / "aachen"
        write(labels / f"{STEM}_gtFine_instanceIds.png", ids)
        label_ids = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
        write(labels / f"{STEM}_gtFine_labelIds.png", label_ids)
        write(labels / f"{STEM}_gtFine_color.png", picture(64, 96))
        content = {"imgHeight": 64, "imgWidth": 96, "objects": []}
        (labels / f"{STEM}_gtFine_polygons.json").write_text(json.dumps(content))
    empty_catalogs(monkeypatch)
    register_detectron2(tmp_path / "datasets")
    register_cityscapes(tmp_path / "datasets")
    explain_builtin_cityscapes()
    return tmp_path / "datasets"


def test_training_labels(root):
    folder = prepare_cityscapes(root)
    path = folder / "gtFine" / "val" / "aachen" / f"{STEM}_gtFine_labelTrainIds.png"
    labels = read(path)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, class_map())
    assert not list(folder.rglob("*.partial"))


def test_panoptic_annotation(root):
    """As cityscapesscripts.preparation.createPanopticImgs makes it."""
    folder = prepare_cityscapes(root) / "gtFine"
    content = json.loads((folder / "cityscapes_panoptic_train.json").read_text())
    assert len(content["categories"]) == 19
    assert content["categories"][-1] | {"color": None} == {
        "id": 33,
        "name": "bicycle",
        "isthing": 1,
        "color": None,
    }
    [image], [annotation] = content["images"], content["annotations"]
    assert (image["id"], image["height"], image["width"]) == (STEM, 64, 96)
    assert annotation["image_id"] == STEM
    assert annotation["file_name"] == f"{STEM}_gtFine_panoptic.png"
    cars = 3 * 15 * 20
    assert annotation["segments_info"] == [
        {
            "id": ROAD,
            "category_id": ROAD,
            "iscrowd": 0,
            "area": 36 * 96 - cars - 8 * 20,
            "bbox": [0, 24, 96, 36],
        },
        {"id": SKY, "category_id": SKY, "iscrowd": 0, "area": 24 * 96, "bbox": [0, 0, 96, 24]},
        {"id": CAR, "category_id": CAR, "iscrowd": 1, "area": 300, "bbox": [60, 30, 20, 15]},
        {"id": 26000, "category_id": CAR, "iscrowd": 0, "area": 300, "bbox": [4, 30, 20, 15]},
        {"id": 26001, "category_id": CAR, "iscrowd": 0, "area": 300, "bbox": [30, 30, 20, 15]},
    ]
    png = read(folder / "cityscapes_panoptic_train" / annotation["file_name"]).astype(int)
    ids = id_map().astype(int)
    np.testing.assert_array_equal(png @ [1, 256, 65536], np.where(ids == 29000, 0, ids))


def test_panoptic_annotation_equals_that_of_cityscapesscripts(root, tmp_path):
    script = pytest.importorskip(
        "cityscapesscripts.preparation.createPanopticImgs",
        reason="cityscapesscripts is not installed; it is needed to compare with",
    )
    folder = prepare_cityscapes(root) / "gtFine"
    script.convert2panoptic(str(folder), str(tmp_path), setNames=["val"])
    ours, theirs = (
        json.loads((place / "cityscapes_panoptic_val.json").read_text())
        for place in (folder, tmp_path)
    )
    assert ours["annotations"] == theirs["annotations"]
    keys = ours["categories"][0].keys()
    assert ours["categories"] == [{key: c[key] for key in keys} for c in theirs["categories"]]
    name = f"cityscapes_panoptic_val/{STEM}_gtFine_panoptic.png"
    np.testing.assert_array_equal(read(folder / name), read(tmp_path / name))


def test_semantic(root, tmp_path):
    prepare_cityscapes(root)
    cfg = cfg_of("cityscapes_fine_sem_seg_val", 19, tmp_path, "SEMANTIC_ON")
    assert train_step(cfg)["instances"].gt_classes.tolist() == [0, 10, 13]
    assert evaluate(cfg)["sem_seg"]["mIoU"] == pytest.approx(100)

    def without_cars(output):
        scores = output["sem_seg"].clone()
        scores[0] += scores[13]
        scores[13] = 0
        return {"sem_seg": scores}

    # 900 pixels of cars are taken for road; pixels that are not evaluated do not count.
    road = 36 * 96 - 900 - 160
    assert evaluate(cfg, without_cars)["sem_seg"]["mIoU"] == pytest.approx(
        100 * (road / (road + 900) + 1 + 0) / 3
    )


def test_panoptic(root, tmp_path):
    prepare_cityscapes(root)
    name = "cityscapes_fine_panoptic_val"
    cfg = cfg_of(name, 19, tmp_path, "PANOPTIC_ON", "SEMANTIC_ON", "INSTANCE_ON")
    assert sorted(train_step(cfg)["instances"].gt_classes.tolist()) == [0, 10, 13, 13]
    figures = evaluate(cfg)
    assert figures["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert figures["sem_seg"]["mIoU"] == pytest.approx(100)
    assert figures["segm"]["AP"] == pytest.approx(100)

    def without_a_car(output):
        ids, segments = output["panoptic_seg"]
        return output | {
            "panoptic_seg": (ids.where(ids != 26001, 0), [s for s in segments if s["id"] != 26001]),
            "instances": output["instances"][:1],
        }

    figures = evaluate(cfg, without_a_car)
    assert figures["panoptic_seg"]["PQ"] == pytest.approx(100 * (2 / 3 + 2) / 3)
    assert figures["segm"]["AP"] == pytest.approx(50)


def test_instance(root, tmp_path):
    prepare_cityscapes(root)
    cfg = cfg_of("cityscapes_fine_instance_val", 8, tmp_path, "INSTANCE_ON")
    sample = train_step(cfg)
    assert sample["instances"].gt_classes.tolist() == [2, 2]  # person, rider, car; no group
    figures = evaluate(cfg)["segm"]
    assert figures["AP"] == figures["AP50"] == figures["AP-car"] == pytest.approx(100)
    one = evaluate(cfg, lambda output: {"instances": output["instances"][1:]})
    assert one["segm"]["AP"] == pytest.approx(50)


def test_detectron2_instances(root, tmp_path):
    for module in ("cityscapesscripts", "shapely"):
        pytest.importorskip(module, reason=f"{module} is not installed; Detectron2 reads with it")
    for path in (root / "cityscapes" / "gtFine").rglob("*_polygons.json"):
        square = [[4, 30], [23, 30], [23, 44], [4, 44]]
        content = {
            "imgHeight": 64,
            "imgWidth": 96,
            "objects": [{"label": "car", "polygon": square}],
        }
        path.write_text(json.dumps(content))
    cfg = cfg_of("cityscapes_fine_instance_seg_val", 8, tmp_path, "INSTANCE_ON")
    assert train_step(cfg)["instances"].gt_classes.tolist() == [2]
    assert evaluate(cfg)["segm"]["AP"] == pytest.approx(50)


def test_preparation_is_resumed(root):
    folder = prepare_cityscapes(root) / "gtFine"
    path = folder / "cityscapes_panoptic_val" / f"{STEM}_gtFine_panoptic.png"
    before = path.stat().st_mtime_ns
    prepare_cityscapes(root)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["gtFine/val/aachen/{}_gtFine_instanceIds.png", "leftImg8bit/val"])
def test_incomplete_download(root, kind):
    path = root / "cityscapes" / kind.format(STEM)
    path.unlink() if path.is_file() else path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=path.name):
        prepare_cityscapes(root)


def test_panoptic_images_of_somebody_else(root):
    (root / "cityscapes" / "gtFine" / "cityscapes_panoptic_train").mkdir()
    with pytest.raises(ValueError, match="cityscapes_panoptic_train was made by another program"):
        prepare_cityscapes(root)


@pytest.mark.parametrize("task", ["sem_seg", "panoptic", "instance"])
def test_unprepared(root, task):
    with pytest.raises(FileNotFoundError, match="`python -m tools.prepare_datasets cityscapes`"):
        DatasetCatalog.get(f"cityscapes_fine_{task}_train")
