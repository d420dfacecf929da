"""What is found out about folders of images and labels."""

import json

import numpy as np
import pytest
from PIL import Image

from mask_former.data.discovery import discover
from mask_former.errors import UserError
from tests.data.test_report import image, save


def keys(*args, **options):
    return {finding.key: finding.value for finding in discover(*map(str, args), **options)}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "mine.yaml"


def make(tmp_path, labels, folders=("images", "labels"), count=10):
    for number in range(count):
        (tmp_path / folders[0]).mkdir(parents=True, exist_ok=True)
        (tmp_path / folders[1]).mkdir(parents=True, exist_ok=True)
        image(tmp_path / folders[0] / f"{number}.jpg", number)
        save(tmp_path / folders[1] / f"{number}.png", labels)
    return tmp_path / folders[0], tmp_path / folders[1]


def test_values_are_classes_and_255_is_ignored(tmp_path, output):
    found = keys(*make(tmp_path, [[0, 0, 1, 2, 255]] * 4), output=output)
    assert found["FORMAT"] == "semantic"
    assert found["CLASSES"] == ["class_0", "class_1", "class_2"]
    assert not found.keys() & {"LABEL_VALUES", "ENCODING", "COLORS", "IGNORE"}


def test_the_shares_of_values_are_told(tmp_path, output):
    findings = discover(*map(str, make(tmp_path, [[0, 0, 1, 255]] * 4)), output=output)
    (why,) = [finding.why for finding in findings if finding.key == "CLASSES"]
    assert "0: 50.0%, 1: 25.0%" in why and "255 is ignored: 25.0%" in why and "rename" in why


def test_values_with_gaps_are_listed(tmp_path, output):
    found = keys(*make(tmp_path, [[7, 7, 11, 26]] * 4), output=output)
    assert found["LABEL_VALUES"] == [7, 11, 26]
    found = keys(tmp_path / "images", tmp_path / "labels", output=output, classes="a, b,c")
    assert found["CLASSES"] == ["a", "b", "c"] and found["LABEL_VALUES"] == [7, 11, 26]


def test_masks_of_0_and_255(tmp_path, output):
    found = keys(*make(tmp_path, [[0, 0, 255, 255]] * 4), output=output)
    assert found["ENCODING"] == "binary" and found["CLASSES"] == ["background", "foreground"]


def test_maps_of_nothing_but_255(tmp_path, output):
    folders = make(tmp_path, [[255, 255]] * 4)
    with pytest.raises(UserError, match="nothing but 255.*--classes"):
        keys(*folders, output=output)
    found = keys(*folders, output=output, classes="sky,sea")
    assert found["ENCODING"] == "binary" and found["CLASSES"] == ["sky", "sea"]


def test_colors(tmp_path, output):
    labels = np.zeros((4, 5, 3))
    labels[:, 2:] = 10, 20, 30
    found = keys(*make(tmp_path, labels), output=output)
    assert found["COLORS"] == [[0, 0, 0], [10, 20, 30]]
    assert found["CLASSES"] == ["color_0_0_0", "color_10_20_30"]
    folders = tmp_path / "images", tmp_path / "labels"
    with pytest.raises(UserError, match=r"which class has which: .*NAME:RED,GREEN,BLUE"):
        keys(*folders, output=output, classes="sky,tree")
    (tmp_path / "labelmap.txt").write_text("sky:0,0,0::\ntree:10,20,30::\n")
    found = keys(*folders, output=output, ignore="sky")
    assert found["CLASS_FILE"] == str(tmp_path / "labelmap.txt") and "COLORS" not in found
    assert found["IGNORE"] == ["sky"]
    with pytest.raises(UserError, match=r"--classes names .'tree', 'sky'., but .*labelmap.txt"):
        keys(*folders, output=output, classes="tree,sky")


def test_a_file_of_classes_that_is_not_there(tmp_path, output):
    folders = make(tmp_path, [[0, 1]] * 4)
    with pytest.raises(UserError, match="no file 'sky tree'. Names are separated by commas"):
        keys(*folders, output=output, classes="sky tree")


def test_a_photo_is_no_label_map(tmp_path, output):
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3))
    with pytest.raises(UserError, match="more than 256 colours"):
        keys(*make(tmp_path, noise), output=output)


def test_folders_of_splits(tmp_path, output):
    for split in ("train", "val"):
        make(tmp_path, [[0, 1]] * 4, (f"images/{split}", f"labels/{split}"))
    found = keys(tmp_path / "images", tmp_path / "labels", output=output)
    assert found["SPLITS"] == ["train", "val"]
    assert found["IMAGES"] == f"{tmp_path}/images/{{split}}"
    assert found["LABELS"] == f"{tmp_path}/labels/{{split}}"
    same = keys(tmp_path / "images/train", tmp_path / "labels/train", output=output)
    assert same == found


def test_a_tenth_is_held_out(tmp_path, output):
    found = keys(*make(tmp_path, [[0, 1]] * 4, count=20), output=output)
    assert found["SPLITS"] == ["train", "val"]
    parts = [
        (tmp_path / found["IMAGE_LIST"].format(split=split)).read_text().split()
        for split in found["SPLITS"]
    ]
    assert [len(part) for part in parts] == [18, 2]
    assert sorted(parts[0] + parts[1]) == sorted(f"{number}.jpg" for number in range(20))


@pytest.mark.parametrize("rare", [7, (10, 200, 30)], ids=["value", "colour"])
def test_a_rare_class_is_in_both_parts(tmp_path, output, rare):
    common = np.zeros_like(rare)
    images, labels = make(tmp_path, [[common, common]] * 4, count=20)
    for number in (3, 11):
        save(labels / f"{number}.png", [[common, rare]] * 4)
    found = keys(images, labels, output=output)
    for split in found["SPLITS"]:
        names = (tmp_path / found["IMAGE_LIST"].format(split=split)).read_text().split()
        assert len({"3.jpg", "11.jpg"} & set(names)) == 1


@pytest.mark.parametrize("panoptic", [False, True])
def test_json(tmp_path, output, panoptic):
    annotations = [
        {"image_id": number, "segments_info": []} if panoptic else {"image_id": number}
        for number in range(10)
    ]
    content = {
        "images": [{"id": number} for number in range(10)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "images").mkdir()
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    if panoptic:
        with pytest.raises(UserError, match="Name it with --png"):
            keys(tmp_path / "images", path, output=output)
        (tmp_path / "labels").mkdir()
    found = keys(tmp_path / "images", path, output=output)
    assert found["FORMAT"] == ("panoptic" if panoptic else "instances")
    assert found.get("LABELS") == (str(tmp_path / "labels") if panoptic else None)
    assert found.get("THINGS") == (["cat"] if panoptic else None)
    parts = [
        json.loads((tmp_path / found["JSON"].format(split=split)).read_text())
        for split in found["SPLITS"]
    ]
    assert [len(part["images"]) for part in parts] == [9, 1]
    for part in parts:
        ids = [entry["id"] for entry in part["images"]]
        assert [annotation["image_id"] for annotation in part["annotations"]] == ids
        assert part["categories"] == content["categories"]


@pytest.mark.parametrize(
    ("image", "annotation", "message"),
    [
        ({"id": [1]}, {}, r"the id of an image is a list, \[1\]"),
        ({}, {"image_id": {}}, "the image_id of an annotation is an object"),
        ({}, {"segments_info": None}, "'segments_info' is null, but must be a list"),
        ({}, {"segments_info": [1]}, r"segments_info\[0\] is a number, 1, but must be an object"),
    ],
)
def test_a_broken_json(tmp_path, output, image, annotation, message):
    content = {
        "images": [{"id": 1, **image}, {"id": 2}],
        "annotations": [{"image_id": 1, "category_id": [1], **annotation}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"labels.json: {message}"):
        keys(tmp_path / "images", tmp_path / "labels.json", output=output)


def test_json_of_splits(tmp_path, output):
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        path = tmp_path / f"instances_{split}2017.json"
        path.write_text(json.dumps({"annotations": [{"image_id": 1}]}))
    found = keys(tmp_path / "train2017", tmp_path / "instances_train2017.json", output=output)
    assert found["IMAGES"] == f"{tmp_path}/{{split}}2017"
    assert found["JSON"] == f"{tmp_path}/instances_{{split}}2017.json"


def test_nothing_there(tmp_path, output):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        keys(tmp_path / "nowhere", tmp_path, output=output)


def test_one_image_is_too_few(tmp_path, output):
    with pytest.raises(UserError, match="There is one image"):
        keys(*make(tmp_path, [[0, 1]] * 4, count=1), output=output)


def test_label_maps_with_a_palette(tmp_path, output):
    images, labels = make(tmp_path, [[0, 1]] * 4)
    for path in labels.iterdir():
        palette = Image.fromarray(np.uint8([[0, 1, 2]] * 4), mode="P")
        palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        palette.save(path)
    assert len(keys(images, labels, output=output)["CLASSES"]) == 3


def test_labels_beside_their_images(tmp_path, output):
    make(tmp_path, [[0, 1]] * 4, ("all", "all"))
    for path in list((tmp_path / "all").glob("*.png")):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    found = keys(tmp_path / "all", tmp_path / "all", output=output, label_suffix="_mask.png")
    assert found["LABEL_SUFFIX"] == "_mask.png" and len(found["CLASSES"]) == 2
    names = (tmp_path / "mine_val.txt").read_text().split()
    assert len(names) == 1 and names[0].endswith(".jpg")
