"""Cityscapes' average precision: by hand, and as cityscapesscripts computes it."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from mask_former.evaluation import CityscapesInstanceEvaluator
from mask_former.evaluation.cityscapes import THRESHOLDS, average_precision, match

SKY, CAR, CARAVAN, BICYCLE = 23, 26, 29, 33
NAMES = {24: "person", CAR: "car", CARAVAN: "car", 31: "train", BICYCLE: "bicycle"}
SIZE = (40, 60)


def box(top: int, left: int, height: int = 20, width: int = 20) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def annotate(segments: list[tuple[int, np.ndarray]]) -> np.ndarray:
    ids = np.full(SIZE, SKY)
    for id_, mask in segments:
        ids[mask] = id_
    return ids


def ap_of_cars(gt_map, *predictions: tuple[float, np.ndarray], threshold: float = 0.5) -> float:
    masks = np.array([mask for _, mask in predictions]).reshape(-1, *SIZE)
    scores = np.array([score for score, _ in predictions])
    matches = match(masks, ["car"] * len(masks), scores, gt_map)
    return average_precision([matches["car"]], threshold)


ONE_CAR = annotate([(26000, box(0, 0))])
TWO_CARS = annotate([(26000, box(0, 0)), (26001, box(20, 40))])


def test_perfect():
    assert ap_of_cars(TWO_CARS, (0.9, box(0, 0)), (0.3, box(20, 40)), threshold=0.95) == 1


def test_nothing_found():
    assert ap_of_cars(ONE_CAR) == 0


def test_nothing_annotated():
    assert np.isnan(ap_of_cars(annotate([]), (0.9, box(0, 0))))


def test_wrong_before_right():
    # Precision over recall runs (0, 1), (0, 0), (1/2, 1/2).
    wrong, right = (0.9, box(20, 0)), (0.8, box(0, 0))
    assert ap_of_cars(TWO_CARS, wrong, right) == pytest.approx(1 / 8)


def test_equal_scores_pass_together():
    # (0, 1), (1/2, 1/2), in either order.
    wrong, right = (0.8, box(20, 0)), (0.8, box(0, 0))
    assert ap_of_cars(TWO_CARS, wrong, right) == pytest.approx(3 / 8)
    assert ap_of_cars(TWO_CARS, right, wrong) == pytest.approx(3 / 8)


def test_second_prediction_of_an_instance_is_wrong():
    # The more confident one has overlap 0.75, so which is right depends on the threshold.
    predictions = (0.9, box(0, 0, height=15)), (0.8, box(0, 0))
    assert ap_of_cars(ONE_CAR, *predictions, threshold=0.7) == 1  # (0, 1), (1, 1), (1, 1/2)
    assert ap_of_cars(ONE_CAR, *predictions, threshold=0.75) == pytest.approx(1 / 4)


@pytest.mark.parametrize("ignored", [0, CAR, CARAVAN], ids=["void", "group", "not evaluated"])
def test_predictions_on_what_is_not_judged_cost_nothing(ignored):
    gt_map = annotate([(26000, box(0, 0)), (ignored, box(20, 40, height=14))])
    right, on_it = (0.8, box(0, 0)), (0.9, box(20, 40))  # 70 percent of it
    assert ap_of_cars(gt_map, right, on_it, threshold=0.65) == 1
    assert ap_of_cars(gt_map, right, on_it, threshold=0.75) == pytest.approx(1 / 4)


def test_small_instances_need_not_be_found():
    small = box(20, 40, height=9, width=11)
    gt_map = annotate([(26000, box(0, 0)), (26001, small)])
    assert ap_of_cars(gt_map, (0.8, box(0, 0))) == 1
    assert ap_of_cars(gt_map, (0.8, box(0, 0)), (0.9, small)) == 1


def random_image(rng) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Predictions that are moved, doubled, of the wrong class or of nothing, with equal scores."""
    background = np.array([0, 4, 7, 11, 21, SKY, CARAVAN])[rng.integers(0, 7, (6, 10))]
    gt_map = background.repeat(16, axis=0).repeat(16, axis=1)
    labels = list(NAMES)
    for number in range(14):
        label = labels[rng.integers(0, len(labels))]
        (y, x), (height, width) = rng.integers(0, (88, 152)), rng.integers(6, 34, 2)
        is_group = rng.integers(0, 5) == 0
        gt_map[y : y + height, x : x + width] = label if is_group else 1000 * label + number
    masks, classes = [], []
    for id_ in np.unique(gt_map):
        label = id_ if id_ < 1000 else id_ // 1000
        for _ in range(rng.integers(0, 3) if label in NAMES else 0):
            masks.append(np.roll(gt_map == id_, rng.integers(-2, 3, 2), axis=(0, 1)))
            classes.append(NAMES[label] if rng.integers(0, 10) else "car")
    for y, x in rng.integers(0, 60, (3, 2)):
        masks.append(np.zeros(gt_map.shape, dtype=bool))
        masks[-1][y : y + 20, x : x + 25] = True
        classes.append("bicycle")
    return np.array(masks), classes, rng.integers(0, 11, len(masks)) / 10, gt_map


# evaluateImgLists of cityscapesscripts 2.3.0, with NumPy's former in1d put back: allAp, allAp50%.
OFFICIAL = {
    0: (19.65134834924321, 45.36964086717376),
    1: (20.491469308286742, 37.97022855616605),
    2: (16.881638010682128, 35.19636093073593),
}


@pytest.mark.parametrize("seed", OFFICIAL)
def test_metrics_of_cityscapesscripts(seed, tmp_path):
    rng = np.random.default_rng(seed)
    name = f"test_cityscapes_{seed}"
    (tmp_path / "aachen").mkdir()
    metadata = MetadataCatalog.get(name).set(
        gt_dir=str(tmp_path), thing_classes=["sky", *dict.fromkeys(NAMES.values())]
    )
    evaluator = CityscapesInstanceEvaluator(name)
    for index in range(4):
        masks, classes, scores, gt_map = random_image(rng)
        stem = f"aachen_{index:06d}_000019"
        image = Image.fromarray(gt_map.astype(np.uint16))
        image.save(tmp_path / "aachen" / f"{stem}_gtFine_instanceIds.png")
        output = Instances(
            gt_map.shape,
            pred_masks=torch.from_numpy(masks),
            scores=torch.from_numpy(scores),
            pred_classes=torch.tensor([metadata.thing_classes.index(name) for name in classes]),
        )
        evaluator.process(
            [{"file_name": f"anywhere/aachen/{stem}_leftImg8bit.png"}], [{"instances": output}]
        )
    metrics = evaluator.evaluate()["segm"]
    MetadataCatalog.remove(name)
    assert (metrics["AP"], metrics["AP50"]) == pytest.approx(OFFICIAL[seed])
    assert np.isnan(metrics["AP-rider"])


def test_thresholds():
    np.testing.assert_allclose(THRESHOLDS, np.linspace(0.5, 0.95, 10))


def test_metadata_that_lack_the_ground_truth():
    MetadataCatalog.get("test_cityscapes").thing_classes = ["car"]
    with pytest.raises(ValueError, match="lack `gt_dir`"):
        CityscapesInstanceEvaluator("test_cityscapes")
    MetadataCatalog.remove("test_cityscapes")
