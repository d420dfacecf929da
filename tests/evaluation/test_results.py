import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Instances
from PIL import Image

from mask_former.data.classes import class_color
from mask_former.data.records import read_id_map
from mask_former.errors import UserError
from mask_former.evaluation.results import (
    ResultWriter,
    find_image_ids,
    result_categories,
    save_panoptic,
    save_semantic,
)

METADATA = Metadata(
    stuff_classes=["cat", "dog", "sky"],
    thing_classes=["cat", "dog"],
    thing_dataset_id_to_contiguous_id={3: 0, 8: 1},
    stuff_dataset_id_to_contiguous_id={50: 2},
)


def write_json_file(folder, content):
    path = folder / "content.json"
    path.write_text(json.dumps(content))
    return path


def load(path):
    return json.loads(path.read_text())


def make_instances(count=2):
    masks = torch.zeros(count, 20, 30, dtype=torch.bool)
    for i in range(count):
        masks[i, 4 : 8 + i, 6:12] = True
    return Instances(
        (20, 30),
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.arange(count) % 2,
        scores=torch.linspace(0.9, 0.4, count),
    )


def test_a_panoptic_map_survives_the_way_to_disk(tmp_path):
    ids = torch.zeros(20, 30, dtype=torch.int32)
    ids[2:6, 3:10], ids[10:, :] = 1, 2**24 - 1
    ids[0, 0] = 1
    infos = [
        {"id": 1, "category_id": 1, "isthing": True},
        {"id": 2**24 - 1, "category_id": 2, "isthing": False},
        {"id": 77, "category_id": 0, "isthing": True},  # no pixel
    ]
    path = tmp_path / "new" / "map.png"
    segments = save_panoptic(path, ids, infos, METADATA)
    record = {"file_name": "image", "pan_seg_file_name": str(path), "segments_info": infos}
    assert np.array_equal(read_id_map(record, (20, 30), 3), ids.numpy())
    assert segments == [
        {"id": 1, "category_id": 8, "area": 29, "bbox": [0, 0, 10, 6], "iscrowd": 0},
        {"id": 2**24 - 1, "category_id": 50, "area": 300, "bbox": [0, 10, 30, 10], "iscrowd": 0},
    ]


@pytest.mark.parametrize("id_", [2**24, -1])
def test_segment_ids_that_are_no_colours(tmp_path, id_):
    """Of these the PNG would keep three bytes."""
    ids = torch.ones(20, 30, dtype=torch.int64)
    ids[2:6, 3:10] = id_
    infos = [{"id": i, "category_id": 1} for i in (1, id_)]
    with pytest.raises(UserError, match=rf"map\.png is not written: the segment ids {id_} are no"):
        save_panoptic(tmp_path / "map.png", ids, infos, METADATA)
    assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize("num_classes", [256, 300])
def test_semantic_maps_hold_any_number_of_classes(tmp_path, num_classes):
    labels = np.zeros((4, 5), np.int64)
    labels[2, 3] = num_classes - 1
    scores = torch.nn.functional.one_hot(torch.from_numpy(labels)).permute(2, 0, 1)
    save_semantic(tmp_path / "scores.png", scores)
    save_semantic(tmp_path / "labels.png", labels)
    for name in ("scores.png", "labels.png"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), labels)


def test_a_folder_of_results(tmp_path):
    ids = torch.ones(20, 30, dtype=torch.int32)
    prediction = {
        "panoptic_seg": (ids, [{"id": 1, "category_id": 0, "isthing": True}]),
        "instances": make_instances(),
        "sem_seg": torch.ones(20, 30, dtype=torch.int64),
    }
    with ResultWriter(tmp_path, METADATA) as results:
        results.add("one", "photos/one.jpg", (20, 30), prediction)
        results.add(
            "two", "photos/two.jpg", (20, 30), prediction | {"instances": make_instances(0)}
        )
    panoptic, instances = load(tmp_path / "panoptic.json"), load(tmp_path / "instances.json")
    assert panoptic["images"] == load(tmp_path / "images.json")
    assert panoptic["images"][1] == {
        "id": 2,
        "file_name": "photos/two.jpg",
        "height": 20,
        "width": 30,
    }
    assert [a["file_name"] for a in panoptic["annotations"]] == ["one.png", "two.png"]
    assert [a["image_id"] for a in panoptic["annotations"]] == [1, 2]
    assert [c["id"] for c in panoptic["categories"]] == [3, 8, 50]
    semantic = load(tmp_path / "semantic.json")
    assert [a["file_name"] for a in semantic["annotations"]] == ["one.png", "two.png"]
    for kind in ("panoptic", "semantic"):
        assert sorted(p.name for p in (tmp_path / kind).iterdir()) == ["one.png", "two.png"]

    assert [(r["image_id"], r["category_id"]) for r in instances] == [(1, 3), (1, 8)]
    assert instances[0]["score"] == pytest.approx(0.9)
    assert instances[1]["bbox"] == [6, 4, 6, 5]
    decoded = [mask_util.decode(r["segmentation"]) for r in instances]
    assert np.array_equal(np.stack(decoded), make_instances().pred_masks.numpy())


def test_image_ids_are_those_of_the_users_json(tmp_path):
    images = [{"id": "x", "file_name": "a/1.jpg"}, {"id": 2**40, "file_name": "1.jpg"}]
    path = str(write_json_file(tmp_path, {"images": images}))
    # The folders count as far as the JSON has them.
    assert find_image_ids(["photos/a/1.jpg", "photos/b/1.jpg"], path) == ["x", 2**40]
    with pytest.raises(ValueError, match=r"no image with the file_name of photos/2\.jpg"):
        find_image_ids(["photos/2.jpg"], path)
    with pytest.raises(ValueError, match=r"c/1\.jpg has the image id 1099511627776, like b/1\.jpg"):
        find_image_ids(["b/1.jpg", "c/1.jpg"], path)
    with pytest.raises(ValueError, match="images.*has no 'id'"):
        find_image_ids([], str(write_json_file(tmp_path, {"images": [{"file_name": "1.jpg"}]})))


def test_image_ids_by_file_name():
    assert find_image_ids(["a/000139.jpg", "b/7.png"], "names") == [139, 7]
    assert find_image_ids(["a/000139.jpg", "b/x7.png"], "names") == ["000139", "x7"]
    with pytest.raises(ValueError, match=r"b/7\.png has the image id 7, like a/007\.jpg"):
        find_image_ids(["a/007.jpg", "b/7.png"], "names")


def test_results_under_the_users_ids(tmp_path):
    prediction = {"instances": make_instances(1), "sem_seg": torch.zeros(20, 30, dtype=torch.int64)}
    with ResultWriter(tmp_path, METADATA) as results:
        results.add("one", "one.jpg", (20, 30), prediction, image_id="x")
    assert load(tmp_path / "images.json")[0]["id"] == "x"
    assert load(tmp_path / "instances.json")[0]["image_id"] == "x"
    semantic = load(tmp_path / "semantic.json")
    assert semantic["annotations"] == [{"image_id": "x", "file_name": "one.png"}]


def test_only_what_is_predicted_is_written_and_images_without_instances_count(tmp_path):
    with ResultWriter(tmp_path, METADATA) as results:
        results.add("one", "one.jpg", (20, 30), {"instances": make_instances(0)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.json", "instances.json"]
    assert load(tmp_path / "instances.json") == []


def test_after_an_error_what_was_done_is_there(tmp_path):
    with pytest.raises(KeyError), ResultWriter(tmp_path, METADATA) as results:
        results.add("one", "one.jpg", (20, 30), {"instances": make_instances()})
        raise KeyError
    assert len(load(tmp_path / "instances.json")) == 2


def test_categories_of_a_data_set_with_contiguous_ids():
    assert result_categories(Metadata(stuff_classes=["wall", "sky"])) == [
        {
            "id": index,
            "name": name,
            "isthing": 0,
            "supercategory": name,
            "color": list(class_color(Metadata(), index)),
            "contiguous_id": index,
        }
        for index, name in enumerate(["wall", "sky"])
    ]
    assert [c["isthing"] for c in result_categories(METADATA)] == [1, 1, 0]
