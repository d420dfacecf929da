"""Data sets that Detectron2's own functions register, or anybody's."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_coco_panoptic_separated
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic
from PIL import Image

from mask_former.data.checks import check_data
from mask_former.data.records import load_records
from mask_former.errors import MissingFileError, UserError
from tests.data.datasets.cycle import cfg_of, empty_catalogs, evaluate
from tests.data.small_coco import HEIGHT, WIDTH, instances, panoptic, write_files, write_json

CLASSES = {
    "thing_classes": ["cat"],
    "stuff_classes": ["cat", "ground"],
    "thing_dataset_id_to_contiguous_id": {1: 0},
    "stuff_dataset_id_to_contiguous_id": {2: 1},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    empty_catalogs(monkeypatch)
    write_files(tmp_path)
    return tmp_path


def register_instances(folder, content):
    path = write_json(folder / "x.json", content)
    register_coco_instances("mine", {}, path, str(folder / "images"))
    return cfg_of("mine", 2, folder, "INSTANCE_ON")


def register_panoptic(folder, content, metadata=CLASSES):
    path = write_json(folder / "x.json", content)
    register_coco_panoptic(
        "mine", metadata, str(folder / "images"), str(folder / "labels"), path, path
    )
    return cfg_of("mine", 2, folder, "PANOPTIC_ON")


def register_separated(folder, content):
    (folder / "classes").mkdir()
    for stem in "ab":
        Image.open(folder / "images" / f"{stem}.png").save(folder / "images" / f"{stem}.jpg")
        labels = np.full((HEIGHT, WIDTH), 1, dtype=np.uint8)
        Image.fromarray(labels).save(folder / "classes" / f"{stem}.png")
    images = content.get("images") if isinstance(content, dict) else None
    for image in images if isinstance(images, list) else ():
        image["file_name"] = image["file_name"].replace(".png", ".jpg")
    path = write_json(folder / "x.json", content)
    roots = [str(folder / name) for name in ("images", "labels")]
    classes = {"thing_classes": ["cat", "dog"], "stuff_classes": ["things", "ground"]}
    ids = {"thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}}
    register_coco_panoptic_separated(
        "mine", classes | ids, *roots, path, str(folder / "classes"), path
    )
    return cfg_of("mine_separated", 2, folder, "INSTANCE_ON")


REGISTER = {
    register_instances: instances,
    register_panoptic: panoptic,
    register_separated: instances,
}


def test_instances(folder):
    cfg = register_instances(folder, instances())
    assert check_data(cfg) == []
    assert MetadataCatalog.get("mine").thing_classes == ["cat", "dog"]
    assert evaluate(cfg)["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("metadata", [CLASSES, {}])
def test_panoptic(folder, metadata):
    content = panoptic()
    del content["annotations"][0]["segments_info"][0]["iscrowd"]
    cfg = register_panoptic(folder, content, metadata)
    content["annotations"][0]["segments_info"].append({"id": 9, "category_id": 2})
    assert check_data(cfg) == []
    assert MetadataCatalog.get("mine").stuff_classes == ["cat", "ground"]
    # Detectron2's reader knows no sizes.
    assert [record["height"] for record in load_records("mine")] == [HEIGHT, HEIGHT]
    assert evaluate(cfg)["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_unusual_segments_are_counted(folder):
    content = panoptic()
    content["annotations"][0]["segments_info"].append({"id": 9, "category_id": 2})
    cfg = register_panoptic(folder, content)
    assert "1 stuff segments have a class that another" in check_data(cfg)[0]


def test_some_metadata_of_a_panoptic_set(folder):
    cfg = register_panoptic(folder, panoptic(), {"stuff_classes": ["cat", "ground"]})
    with pytest.raises(UserError, match="lack thing_dataset_id_to_contiguous_id and stuff_data"):
        check_data(cfg)


def test_separated(folder):
    cfg = register_separated(folder, instances())
    assert check_data(cfg) == []
    records = load_records("mine_separated")
    assert [len(record["annotations"]) for record in records] == [1, 2]
    stems = [record["sem_seg_file_name"][-5:] for record in records]
    assert stems == ["a.png", "b.png"] and "annotations" not in load_records("mine_stuffonly")[0]
    (folder / "classes" / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.jpg, .* has no label map"):
        check_data(cfg)
    # Detectron2 would pair a.jpg with the label map of b.
    (folder / "images" / "b.jpg").unlink()
    with pytest.raises(MissingFileError, match="no file of the same name"):
        load_records("mine_stuffonly")


def spoil(content, how):
    if how == "a list":
        return [content]
    if how in ("images", "annotations", "categories"):
        return {key: value for key, value in content.items() if key != how}
    first = content["annotations"][0]
    (first["segments_info"][0] if "segments_info" in first else first).update(how)
    return content


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize(
    "how",
    ["a list", "images", "annotations", "categories", {"iscrowd": "no"}, {"category_id": None}],
)
def test_malformed_annotations(folder, register, how):
    cfg = register(folder, spoil(REGISTER[register](), how))
    with pytest.raises(UserError, match=r"x\.json"):
        check_data(cfg)


@pytest.mark.parametrize("kind", [KeyError, FileNotFoundError])
def test_function_of_somebody_else(folder, kind):
    def load():
        raise kind("images")

    DatasetCatalog.register("mine", load)
    MetadataCatalog.get("mine").set(stuff_classes=["cat", "ground"])
    expected = MissingFileError if kind is FileNotFoundError else UserError
    with pytest.raises(expected, match=rf"'mine'.* {kind.__name__}: .*images.*{__name__[-15:]}"):
        load_records("mine")
