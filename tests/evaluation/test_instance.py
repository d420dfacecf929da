import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as coco_mask

from mask_former.errors import NonFiniteError, UserError
from mask_former.evaluation import InstanceEvaluator

SIZE = 120  # large enough for COCO's small, medium and large objects
NAMES = ["cat", "dog", "cow"]
CATEGORY_IDS = [3, 8, 11]
GRASS = 3  # a class that is no thing


def box(rng):
    height, width = rng.integers(8, 110, 2)
    y, x = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + height, x : x + width] = True
    mask[y + height // 2 :, x + width // 2 :] = False  # its area differs from that of its box
    return mask


@pytest.fixture
def dataset(tmp_path, register):
    """Eight images with up to five things, some of them crowds; (name, [[(class, mask)]])."""
    rng = np.random.default_rng(0)
    truth = [[(int(rng.integers(3)), box(rng)) for _ in range(rng.integers(6))] for _ in range(8)]
    annotations = []
    for image_id, things in enumerate(truth):
        for category, mask in things:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[category],
                    "iscrowd": int(rng.random() < 0.15),
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "segmentation": {**rle, "counts": rle["counts"].decode()},
                }
            )
    images = [{"id": i, "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"} for i in range(8)]
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    name = register(
        [],
        json_file=str(tmp_path / "instances.json"),
        thing_classes=NAMES,
        thing_dataset_id_to_contiguous_id={id_: k for k, id_ in enumerate(CATEGORY_IDS)},
    )
    return name, truth


def records():
    return [{"file_name": f"{i}.jpg", "image_id": i} for i in range(8)]


def output(things, scores=None):
    masks = torch.tensor(np.array([mask for _, mask in things]).reshape(-1, SIZE, SIZE))
    instances = Instances((SIZE, SIZE))
    instances.pred_masks = masks
    instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
    instances.pred_classes = torch.tensor([c for c, _ in things], dtype=torch.int64)
    instances.scores = torch.as_tensor(np.ones(len(things)) if scores is None else scores)
    return {"instances": instances}


def predictions(truth):
    """The truth, shifted by a few pixels, some missing, some of another class, some invented."""
    rng = np.random.default_rng(1)
    outputs = []
    for things in truth:
        shift = [(c, np.roll(mask, rng.integers(-4, 5), axis=1)) for c, mask in things]
        found = [
            (c if rng.random() < 0.8 else int(rng.integers(3)), mask)
            for c, mask in shift
            if rng.random() < 0.9
        ]
        found += [(int(rng.integers(3)), box(rng)) for _ in range(2)]
        outputs.append(output(found, rng.random(len(found))))
    return outputs


def assert_same(metrics, expected):
    """Equal to the last bit; there may be NaN, where nothing is annotated."""
    assert metrics.keys() == expected.keys() == {"bbox", "segm"}
    for task in metrics:
        assert metrics[task] == pytest.approx(expected[task], rel=0, abs=0, nan_ok=True)


def test_equals_detectron2(dataset, tmp_path):
    name, truth = dataset
    outputs = predictions(truth)
    ours = InstanceEvaluator(name)
    theirs = COCOEvaluator(name, tasks=("bbox", "segm"), output_dir=None, use_fast_impl=False)
    theirs.reset()
    ours.process(records(), outputs)
    theirs.process(records(), outputs)
    metrics = ours.evaluate()
    assert 10 < metrics["segm"]["AP"] < 80
    assert metrics["segm"]["APl"] != metrics["bbox"]["APl"]
    assert_same(metrics, theirs.evaluate())


def test_metadata_may_name_more_classes_than_the_json(dataset, register):
    """As of a panoptic set. Contiguous ids need not start with the things either."""
    name, truth = dataset
    expected = InstanceEvaluator(name)
    expected.process(records(), predictions(truth))
    panoptic = register(
        [],
        json_file=MetadataCatalog.get(name).json_file,
        thing_classes=["grass", *NAMES, "sky"],
        stuff_classes=["grass", *NAMES, "sky"],
        thing_dataset_id_to_contiguous_id={id_: k + 1 for k, id_ in enumerate(CATEGORY_IDS)},
        stuff_dataset_id_to_contiguous_id={90: 0, 91: 4},
    )
    outputs = predictions(truth)
    for prediction in outputs:
        prediction["instances"].pred_classes += 1
    evaluator = InstanceEvaluator(panoptic)
    evaluator.process(records(), outputs)
    assert_same(evaluator.evaluate(), expected.evaluate())


def test_classes_that_are_no_things_are_left_out(dataset):
    name, truth = dataset
    evaluator = InstanceEvaluator(name)
    outputs = [output([(GRASS, mask) for _, mask in things]) for things in truth]
    evaluator.process(records(), outputs)
    assert evaluator.evaluate()["segm"]["AP"] == 0


@pytest.mark.parametrize("processed", [0, 8])
def test_nothing_predicted_is_0(dataset, processed):
    evaluator = InstanceEvaluator(dataset[0])
    evaluator.process(records()[:processed], [output([])] * processed)
    metrics = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert {metrics[task][key] for key in ("AP", "AP50", "AP-cat", "AP-cow")} == {0.0}


@pytest.mark.parametrize("what", ["ids from 0", "no ids", "texts"])
def test_ids_do_not_matter(dataset, tmp_path, what):
    """To pycocotools an annotation of id 0 is never found."""
    name, truth = dataset
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
        if what == "no ids":
            del annotation["id"]
        elif what == "texts":
            annotation.update(id=f"{number}", image_id=f"i{annotation['image_id']}")
    inputs = records()
    if what == "texts":
        for entry in (*content["images"], *inputs):
            key = "id" if "id" in entry else "image_id"
            entry[key] = f"i{entry[key]}"
    path.write_text(json.dumps(content))
    evaluator = InstanceEvaluator(name, output_folder=str(tmp_path / "out"))
    evaluator.process(inputs, [output(things) for things in truth])
    metrics = evaluator.evaluate()
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP"] == pytest.approx(100)
    saved = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert {result["image_id"] for result in saved} <= {r["image_id"] for r in inputs}


def test_nothing_annotated_is_nan(dataset, tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    evaluator = InstanceEvaluator(dataset[0])
    evaluator.process(records(), predictions(dataset[1]))
    assert all(math.isnan(value) for value in evaluator.evaluate()["segm"].values())


def test_processes_are_gathered_and_an_image_counts_once(dataset, evaluate_in_two):
    name, truth = dataset
    assert_same(*evaluate_in_two(lambda: InstanceEvaluator(name), records(), predictions(truth)))


def test_predictions_are_saved_as_coco_results(dataset, tmp_path):
    name, truth = dataset
    evaluator = InstanceEvaluator(name, output_folder=str(tmp_path / "out"))
    evaluator.process(records(), [output(things) for things in truth])
    evaluator.evaluate()
    saved = json.loads((tmp_path / "out" / "instances.json").read_text())
    masks = [(CATEGORY_IDS[c], mask) for things in truth for c, mask in things]
    assert len(saved) == len(masks)
    for result, (category_id, mask) in zip(saved, masks, strict=True):
        assert result["category_id"] == category_id
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), mask)


def test_warns_of_missing_images(dataset, log):
    evaluator = InstanceEvaluator(dataset[0])
    evaluator.process(records()[:3], predictions(dataset[1])[:3])
    evaluator.evaluate()
    assert any("3 of 8 images" in message for message in log)


class TestErrors:
    def test_scores_that_are_not_finite(self, dataset):
        name, truth = dataset
        things = next(things for things in truth if things)
        evaluator = InstanceEvaluator(name)
        scores = np.full(len(things), float("nan"))
        with pytest.raises(NonFiniteError, match=r"0\.jpg: scores are NaN"):
            evaluator.process(records()[:1], [output(things, scores)])

    def test_masks_of_another_size(self, dataset):
        """COCO's tools count them as misses."""
        prediction = output(dataset[1][0])
        prediction["instances"].pred_masks = prediction["instances"].pred_masks[:, :-1]
        with pytest.raises(UserError, match=r"0\.jpg, .*instances\.json: .* \(119, 120\), .*120\)"):
            InstanceEvaluator(dataset[0]).process(records()[:1], [prediction])

    def test_image_that_the_json_lacks(self, dataset):
        evaluator = InstanceEvaluator(dataset[0])
        with pytest.raises(ValueError, match=r"instances\.json has no image 99 \(x\.jpg\)"):
            evaluator.process([{"file_name": "x.jpg", "image_id": 99}], [output([])])

    def test_json_not_there(self, dataset, tmp_path):
        (tmp_path / "instances.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"instances\.json"):
            InstanceEvaluator(dataset[0]).process(records()[:1], [output([])])

    def test_categories_that_the_json_lacks(self, dataset, register):
        name = register(
            [],
            json_file=MetadataCatalog.get(dataset[0]).json_file,
            thing_dataset_id_to_contiguous_id={3: 0, 77: 1},
        )
        with pytest.raises(ValueError, match=r"instances\.json lacks the categories \[77\]"):
            InstanceEvaluator(name).process(records()[:1], [output([])])

    def test_metadata_lack_the_json(self, register):
        with pytest.raises(ValueError, match="lack `json_file`"):
            InstanceEvaluator(register([], json_file=None))
