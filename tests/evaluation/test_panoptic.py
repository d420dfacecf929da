import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from hotcoco.panoptic import PanopticEval
from PIL import Image

from mask_former.data.datasets import load_panoptic
from mask_former.evaluation import PanopticEvaluator

NAMES = ["cat", "dog", "grass"]
DATASET_IDS = [17, 18, 93]  # by contiguous id
SEGMENT_IDS = [70000, 5, 300]


def write_map(path, id_map):
    rgb = np.stack([id_map % 256, id_map // 256 % 256, id_map // 256**2], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(path)


@pytest.fixture
def dataset(tmp_path, register):
    """Five images of one cat, one dog and grass; (name, ground truth maps)."""
    root = tmp_path / "panoptic"
    root.mkdir()
    rng = np.random.default_rng(0)
    annotations, maps = [], []
    for index in range(5):
        id_map = np.array(SEGMENT_IDS)[rng.integers(0, 3, (4, 5)).repeat(4, 0).repeat(3, 1)]
        id_map[:2] = 0
        write_map(root / f"{index}.png", id_map)
        info = [
            {"id": id_, "category_id": category, "iscrowd": 0, "bbox": [0, 0, 1, 1],
             "area": int((id_map == id_).sum())}
            for id_, category in zip(SEGMENT_IDS, DATASET_IDS, strict=True)
        ]  # fmt: skip
        annotations.append(
            {"image_id": 100 + index, "file_name": f"{index}.png", "segments_info": info}
        )
        maps.append(id_map)
    images = [
        {"id": a["image_id"], "file_name": f"{a['image_id']}.jpg", "height": 16, "width": 15}
        for a in annotations
    ]
    categories = [
        {"id": id_, "name": name, "isthing": int(name != "grass")}
        for id_, name in zip(DATASET_IDS, NAMES, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    name = register(
        load_panoptic,
        stuff_classes=NAMES,
        thing_dataset_id_to_contiguous_id={17: 0, 18: 1},
        stuff_dataset_id_to_contiguous_id={93: 2},
        image_root=str(tmp_path),
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(root),
    )
    return name, maps


def records(count=5):
    return [{"file_name": f"{i}.jpg", "image_id": 100 + i} for i in range(count)]


def output(id_map, segment_ids=SEGMENT_IDS):
    """A prediction with the given map; its segments are a cat, a dog and grass."""
    segments = [
        {"id": id_, "category_id": category, "isthing": category < 2}
        for category, id_ in enumerate(segment_ids)
        if (id_map == id_).any()
    ]
    return {"panoptic_seg": (torch.from_numpy(id_map.astype(np.int32)), segments)}


def shifted(maps):
    return [output(np.roll(id_map, 1, axis=1)) for id_map in maps]


def test_ground_truth_scores_100(dataset, log):
    name, maps = dataset
    evaluator = PanopticEvaluator(name)
    evaluator.process(records(), [output(id_map) for id_map in maps])
    assert set(evaluator.evaluate()["panoptic_seg"].values()) == {100.0}
    assert not any("images" in message for message in log)
    assert any("grass" in message for message in log)


def test_saved_predictions_score_the_same_elsewhere(dataset, tmp_path):
    """What is saved is read by an independent program, which finds the same metrics."""
    name, maps = dataset
    evaluator = PanopticEvaluator(name, output_folder=str(tmp_path / "out"))
    evaluator.process(records(), shifted(maps))
    metrics = evaluator.evaluate()["panoptic_seg"]
    theirs = PanopticEval(
        tmp_path / "panoptic.json",
        tmp_path / "out" / "panoptic.json",
        gt_folder=tmp_path / "panoptic",
        pred_folder=tmp_path / "out" / "panoptic",
    )
    theirs.evaluate()
    assert 10 < metrics["PQ"] < 90
    assert list(metrics.values()) == pytest.approx([100 * s for s in theirs.stats], rel=1e-12)


def test_images_of_one_name_in_subfolders(dataset, tmp_path):
    name, maps = dataset
    path = tmp_path / "panoptic.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        png = f"{annotation['image_id']}/x.png"
        (tmp_path / "panoptic" / png).parent.mkdir()
        (tmp_path / "panoptic" / annotation["file_name"]).rename(tmp_path / "panoptic" / png)
        annotation["file_name"] = png
    path.write_text(json.dumps(content))
    evaluator = PanopticEvaluator(name, output_folder=str(tmp_path / "out"))
    evaluator.process(records(), [output(id_map) for id_map in maps])
    evaluator.evaluate()
    saved = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    assert [entry["file_name"] for entry in saved] == [f"{100 + i}/x.png" for i in range(5)]
    for entry, id_map in zip(saved, maps, strict=True):
        found = np.array(Image.open(tmp_path / "out" / "panoptic" / entry["file_name"]))
        assert np.array_equal(found @ [1, 256, 256**2], id_map)


def test_a_segment_without_a_pixel_is_missed_and_said(dataset, tmp_path, log):
    name, maps = dataset
    path = tmp_path / "panoptic.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"].append({"id": 9, "category_id": 17})
    path.write_text(json.dumps(content))
    evaluator = PanopticEvaluator(name)
    evaluator.check_ground_truth()
    evaluator.process(records(), [output(id_map) for id_map in maps])
    metrics = evaluator.evaluate()["panoptic_seg"]
    assert metrics["RQ_th"] == pytest.approx(100 * (1 + 5 / 5.5) / 2) and metrics["SQ_th"] == 100
    assert any("1 segments are listed" in message for message in log)


def test_nothing_is_saved_unless_asked(dataset, tmp_path):
    name, maps = dataset
    before = sorted(tmp_path.rglob("*"))
    evaluator = PanopticEvaluator(name)
    evaluator.process(records(), shifted(maps))
    evaluator.evaluate()
    assert sorted(tmp_path.rglob("*")) == before


def test_processes_are_reduced_and_an_image_counts_once(dataset, evaluate_in_two):
    name, maps = dataset
    found, expected = evaluate_in_two(lambda: PanopticEvaluator(name), records(), shifted(maps))
    assert found == expected


def test_other_processes_return_nothing(dataset, monkeypatch):
    monkeypatch.setattr(comm, "gather", lambda data: [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert PanopticEvaluator(dataset[0]).evaluate() is None


def test_warns_of_missing_images(dataset, log):
    name, maps = dataset
    evaluator = PanopticEvaluator(name)
    evaluator.process(records(2), shifted(maps[:2]))
    evaluator.evaluate()
    assert any("2 of 5 images" in message for message in log)


def test_nothing_predicted_is_0(dataset):
    name, maps = dataset
    evaluator = PanopticEvaluator(name)
    evaluator.process(records(), [output(np.zeros_like(id_map)) for id_map in maps])
    assert set(evaluator.evaluate()["panoptic_seg"].values()) == {0.0}


def test_reset_forgets(dataset):
    name, maps = dataset
    evaluator = PanopticEvaluator(name)
    evaluator.process(records(), [output(np.zeros_like(id_map)) for id_map in maps])
    evaluator.reset()
    evaluator.process(records(), [output(id_map) for id_map in maps])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


class TestErrors:
    def process(self, dataset, prediction=None, **changes):
        name, maps = dataset
        prediction = prediction or output(maps[0])
        PanopticEvaluator(name).process([{**records()[0], **changes}], [prediction])

    def test_unknown_image(self, dataset):
        with pytest.raises(ValueError, match=r"0\.jpg: no record of .* has the image_id 7"):
            self.process(dataset, image_id=7)

    def test_another_size(self, dataset):
        with pytest.raises(ValueError, match=r"0\.jpg.*0\.png.*\(8, 9\).*\(16, 15\)"):
            self.process(dataset, output(np.full((8, 9), 5)))

    def test_png_and_json_disagree(self, dataset, tmp_path):
        write_map(tmp_path / "panoptic" / "0.png", np.full((16, 15), 1234))
        with pytest.raises(ValueError, match=r"0\.png: the ground truth's map .*\[1234\]"):
            self.process(dataset)

    def test_category_that_the_metadata_lack(self, dataset, tmp_path):
        path = tmp_path / "panoptic.json"
        path.write_text(path.read_text().replace('"category_id": 93', '"category_id": 94'))
        with pytest.raises(ValueError, match=r"panoptic\.json.* image 100, .* category_id 94"):
            self.process(dataset)

    def test_png_not_there(self, dataset, tmp_path):
        (tmp_path / "panoptic" / "0.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"panoptic.0\.png"):
            self.process(dataset)

    def test_corrupt_png(self, dataset, tmp_path):
        path = tmp_path / "panoptic" / "0.png"
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(ValueError, match=r"0\.png cannot be read"):
            self.process(dataset)

    def test_json_not_there(self, dataset, tmp_path):
        (tmp_path / "panoptic.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"panoptic\.json"):
            self.process(dataset)

    def test_metadata_lack_the_classes(self, register):
        with pytest.raises(ValueError, match="lack `stuff_classes`"):
            PanopticEvaluator(register([], panoptic_json="x"))

    def test_records_without_panoptic_annotation(self, register):
        name = register(
            records(),
            stuff_classes=NAMES,
            thing_dataset_id_to_contiguous_id={17: 0, 18: 1},
            stuff_dataset_id_to_contiguous_id={93: 2},
        )
        with pytest.raises(ValueError, match="image_id 100 and a `pan_seg_file_name`"):
            PanopticEvaluator(name).process(records(1), [output(np.full((4, 4), 5))])

    def test_things_and_stuff_share_a_contiguous_id(self, register):
        """As in Detectron2's "separated" sets, whose stuff is numbered on its own."""
        name = register(
            [],
            stuff_classes=NAMES,
            thing_dataset_id_to_contiguous_id={17: 0, 18: 1},
            stuff_dataset_id_to_contiguous_id={93: 0},
        )
        with pytest.raises(ValueError, match=r"\[0, 3\).*they give \[0, 0, 1\]"):
            PanopticEvaluator(name)


def test_detectron2s_builtin_metadata_fit():
    """`thing_classes` holds all 133 names there."""
    assert len(MetadataCatalog.get("coco_2017_val_panoptic").thing_classes) == 133
    PanopticEvaluator("coco_2017_val_panoptic")
