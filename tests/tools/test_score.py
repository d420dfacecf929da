"""Saved predictions are scored as their formats say, whoever wrote them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mask_former.errors import UserError
from mask_former.evaluation.score import find_results
from tests.own_data import CATEGORIES, load, write_own_data
from tools import score

NAMES = [category["name"] for category in CATEGORIES]


@pytest.fixture
def data(tmp_path):
    write_own_data(tmp_path / "truth")
    return tmp_path / "truth"


@pytest.fixture
def found(data, tmp_path):
    """Predictions: the ground truth, but for the leaf of the first image."""
    folder = tmp_path / "found"
    for name in ("labels", "panoptic"):
        shutil.copytree(data / name, folder / name)
    labels = np.array(Image.open(folder / "labels/field_0.png"))
    for path in (folder / "labels").iterdir():
        values = np.array(Image.open(path))
        values[values == 255] = 1  # a class is predicted everywhere
        values[(values == 0) & (path.stem == "field_0")] = 1
        Image.fromarray(values).save(path)
    ids = np.array(Image.open(folder / "panoptic/field_0.png"))
    ids[labels == 0] = 0
    Image.fromarray(ids).save(folder / "panoptic/field_0.png")
    content = load(data / "panoptic.json")
    content["annotations"][0]["segments_info"].pop(0)
    (folder / "panoptic.json").write_text(json.dumps(content))
    instances = load(data / "instances.json")["annotations"][1:]
    instances = [{**instance, "score": 0.5} for instance in instances]
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


def run(*flags):
    return score.main([str(flag) for flag in flags])


def change(path, edit):
    content = load(path)
    edit(content)
    path.write_text(json.dumps(content))


def test_panoptic(data, found, tmp_path):
    flags = ["--panoptic-json", data / "panoptic.json", "--output", tmp_path / "metrics.json"]
    metrics = run(found / "panoptic.json", *flags)["panoptic_seg"]
    # Of three leaves two are found: RQ = 2 / (2 + 1/2).
    assert metrics["PQ_th"] == pytest.approx((80 + 100) / 2) and metrics["PQ_st"] == 100
    assert load(tmp_path / "metrics.json") == {"panoptic_seg": pytest.approx(metrics)}


def test_instances(data, found):
    metrics = run(found / "instances.json", "--instances-json", data / "instances.json")
    # Precision 1 up to a recall of 2/3: at 67 of 101 recalls.
    for task in ("segm", "bbox"):
        assert metrics[task]["AP-leaf"] == pytest.approx(100 * 67 / 101)
        assert metrics[task]["AP-beetle"] == 100


def test_a_list_of_certain_instances_alone_is_noticed(data, found, caplog):
    truth = ("--instances-json", data / "instances.json")
    run(found / "instances.json", *truth)
    assert "has a score below 0.50" in caplog.text and "--confidence-threshold 0" in caplog.text
    caplog.clear()
    change(found / "instances.json", lambda content: content[0].update(score=0.01))
    run(found / "instances.json", *truth)
    assert "confidence-threshold" not in caplog.text


def test_semantic(data, found, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    for classes in (tmp_path / "names.txt", data / "panoptic.json"):
        flags = ["--labels", data / "labels", "--classes", classes]
        metrics = run(found / "labels", *flags)["sem_seg"]
        truth = np.stack([np.array(Image.open(p)) for p in sorted((data / "labels").iterdir())])
        leaves = (truth == 0).sum(axis=(1, 2))
        soil = (truth == 1).sum()
        assert metrics["IoU-leaf"] == pytest.approx(100 * leaves[1:].sum() / leaves.sum())
        assert metrics["IoU-soil"] == pytest.approx(100 * soil / (soil + leaves[0]))
        assert metrics["IoU-beetle"] == 100


def test_a_test_set_of_a_config_for_all_kinds_at_once(shapes_root, tmp_path):
    """Perfect predictions in one folder; ids are those of the files."""
    root = shapes_root / "shapes"
    shutil.copytree(root / "panoptic_val", tmp_path / "panoptic")
    shutil.copy(root / "annotations/panoptic_val.json", tmp_path / "panoptic.json")
    shutil.copytree(root / "sem_seg_val", tmp_path / "semantic")
    names = sorted(path.name for path in (tmp_path / "semantic").iterdir())
    for name in names:
        labels = np.array(Image.open(tmp_path / "semantic" / name))
        labels[labels == 255] = 3
        Image.fromarray(labels).save(tmp_path / "semantic" / name)
    entries = [{"image_id": name, "file_name": name} for name in names]
    (tmp_path / "semantic.json").write_text(json.dumps({"annotations": entries}))
    config = tmp_path / "config.yaml"
    config.write_text("DATASETS: {TEST: [shapes_train_panoptic, shapes_val_panoptic]}\n")
    metrics = run(tmp_path, "--config-file", config, "--dataset", "shapes_val_panoptic")
    assert metrics["panoptic_seg"]["PQ"] == metrics["sem_seg"]["mIoU"] == 100


def refused(*flags):
    with pytest.raises(ValueError) as refusal:
        run(*flags)
    return str(refusal.value)


def test_the_folder_of_all_data_sets_is_not_that_of_one(tmp_path):
    """Its PNG would be taken for semantic maps."""
    folder = tmp_path / "inference" / "mine_val"
    (folder / "panoptic").mkdir(parents=True)
    (folder / "panoptic.json").touch()
    (folder / "panoptic" / "a.png").touch()
    with pytest.raises(UserError, match=f"in its folders: name one of {folder}."):
        find_results(folder.parent)


def test_images_are_not_paired_by_chance(data, found):
    truth = ["--panoptic-json", data / "panoptic.json"]

    def shift(content):
        ids = [image["id"] for image in content["images"]]
        for image, id_ in zip(content["images"], [*ids[1:], ids[0]], strict=True):
            image["id"] = id_

    change(found / "panoptic.json", shift)
    message = refused(found / "panoptic.json", *truth)
    assert "image 'plot-0' is field_2.png, but" in message and "--image-ids" in message

    def number(content):
        for index, annotation in enumerate(content["annotations"], start=1):
            annotation["image_id"] = index

    change(found / "panoptic.json", number)
    message = refused(found / "panoptic.json", *truth)
    assert "no prediction for any image" in message and "1, 2, 3" in message

    change(found / "instances.json", lambda content: [x.update(image_id=1) for x in content])
    message = refused(found / "instances.json", "--instances-json", data / "instances.json")
    assert "which lacks the image_ids 1" in message and "--image-ids" in message


def test_images_that_the_ground_truth_lacks_are_left_out_and_counted(data, found, caplog):
    change(found / "instances.json", lambda content: content[0].update(image_id=1))
    run(found / "instances.json", "--instances-json", data / "instances.json")
    assert "Not scored: 1 results, of 1 images that the ground truth lacks." in caplog.text


def test_maps_that_the_ground_truth_lacks_are_counted(data, found, tmp_path, caplog):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    flags = ["--labels", data / "labels", "--classes", tmp_path / "names.txt"]
    run(found / "labels", *flags)
    assert "Not scored" not in caplog.text
    shutil.copy(found / "labels/field_0.png", found / "labels/other.png")
    run(found / "labels", *flags)
    assert "Not scored: 1 images that the ground truth lacks." in caplog.text
    caplog.clear()
    (data / "labels" / "again").mkdir()
    shutil.copy(data / "labels/field_0.png", data / "labels/again/field_0.png")
    (found / "labels/other.png").unlink()
    assert "field_0.png is a prediction for " in refused(found / "labels", *flags)
    assert "Not scored" not in caplog.text


def test_classes_of_results_and_ground_truth_agree(data, found):
    truth = ["--panoptic-json", data / "panoptic.json"]
    change(found / "panoptic.json", lambda c: c["categories"][0].update(name="beetle"))
    message = refused(found / "panoptic.json", *truth)
    assert "the category 40 is 'beetle', but in the ground truth 'leaf'" in message
    change(found / "panoptic.json", lambda c: c["categories"][0].update(name="leaf", id=41))
    assert "category_id a number, 41" in refused(found / "panoptic.json", *truth)
    change(found / "instances.json", lambda content: content[2].update(category_id=7))
    message = refused(found / "instances.json", "--instances-json", data / "instances.json")
    assert "result 2 has the category_id 7, which the ground truth lacks" in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("score", None, "its score is null"),
        ("score", float("nan"), "its score is a number, NaN"),
        pytest.param("score", 10**400, "its score is a number, 1000", id="huge score"),
        ("bbox", [float("nan")] * 4, "its bbox is a list, [nan, nan, nan, nan]"),
        ("bbox", [0, 0, 0], "its bbox is a list, [0, 0, 0], but must be [x, y, width, height]"),
        ("bbox", ["a", 1, 2, 3], "its bbox is a list, ['a', 1, 2, 3]"),
        ("bbox", {"x": 1}, "its bbox is an object"),
        ("segmentation", [[0, 0, 1e9, 0, 1e9, 9]], "a polygon reaches from"),
        ("segmentation", {"size": [64, 64], "counts": [5]}, "cover 5 pixels"),
        ("segmentation", None, "has no mask"),
    ],
)
def test_instances_that_are_none(data, found, key, value, message):
    change(found / "instances.json", lambda content: content[1].update({key: value}))
    said = refused(found / "instances.json", "--instances-json", data / "instances.json")
    assert "result 1" in said and message in said


def test_an_instance_whose_box_is_null_has_that_of_its_mask(data, found):
    truth = ["--instances-json", data / "instances.json"]
    expected = run(found / "instances.json", *truth)["bbox"]["AP"]
    change(found / "instances.json", lambda content: [x.update(bbox=None) for x in content])
    assert run(found / "instances.json", *truth)["bbox"]["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("id_", [10**20, 0, 2**24, True, "1"])
def test_panoptic_segments_whose_id_is_no_colour(data, found, id_):
    change(
        found / "panoptic.json", lambda c: c["annotations"][1]["segments_info"][0].update(id=id_)
    )
    said = refused(found / "panoptic.json", "--panoptic-json", data / "panoptic.json")
    assert "the id of a segment is" in said and "1..16777215" in said


def test_results_that_are_not_there(data, found, tmp_path):
    truth = ["--labels", data / "labels"]
    assert "There are no results" in refused(tmp_path / "gone", *truth)
    (tmp_path / "empty").mkdir()
    assert "has no PNG, and none of panoptic.json" in refused(tmp_path / "empty", *truth)
    assert "name them with --classes" in refused(found / "labels", *truth)
    message = refused(found / "instances.json", "--panoptic-json", data / "panoptic.json")
    assert "The results are instances" in message and "annotated for panoptic" in message
