"""Numbers of objects: counted, compared with the annotation, and saved."""

import csv
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances

from mask_former.errors import UserError
from mask_former.evaluation import CountEvaluator, build_evaluator
from mask_former.evaluation.counts import CountWriter, ObjectCounter, count_errors
from tests.engine.tiny import tiny_cfg

CLASSES = {"thing_classes": ["cat", "dog"], "thing_dataset_id_to_contiguous_id": {7: 0, 9: 1}}


def annotations(cats, dogs, crowd_of=None):
    found = [{"category_id": 0}] * cats + [{"category_id": 1, "iscrowd": 0}] * dogs
    return found + [{"category_id": crowd_of, "iscrowd": 1}] * (crowd_of is not None)


def output(classes, scores):
    instances = Instances((4, 4))
    instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores)
    return {"instances": instances}


def records():
    return [
        {"file_name": "a.png", "annotations": annotations(3, 0)},
        {"file_name": "b.png", "annotations": annotations(1, 2)},
        {"file_name": "c.png", "annotations": annotations(0, 1, crowd_of=0)},
    ]


# Of cats and dogs: 2 and 1, 1 and 0, 5 and 1; what is below 0.5 does not count.
OUTPUTS = [
    output([0, 0, 1, 0], [0.9, 0.5, 0.8, 0.4]),
    output([0, 1], [0.7, 0.3]),
    output([0] * 5 + [1], [0.9] * 6),
]


def test_errors_by_hand(register):
    """Cats are off by 1 and 0, and a crowd in the third image; dogs by 1, 2 and 0."""
    evaluator = CountEvaluator(register(records(), **CLASSES), 0.5)
    evaluator.check_ground_truth()
    evaluator.process(records()[:2], OUTPUTS[:2])
    evaluator.process(records()[2:], OUTPUTS[2:])
    metrics = evaluator.evaluate()["count"]
    assert metrics["MAE-cat"] == pytest.approx(1 / 2)
    assert metrics["MAE-dog"] == pytest.approx(3 / 3)
    assert metrics["RMSE-cat"] == pytest.approx(math.sqrt(1 / 2))
    assert metrics["RMSE-dog"] == pytest.approx(math.sqrt(5 / 3))
    assert metrics["MAE"] == pytest.approx(3 / 4)
    assert metrics["RMSE"] == pytest.approx((math.sqrt(1 / 2) + math.sqrt(5 / 3)) / 2)
    evaluator.reset()
    evaluator.process(records()[:1], OUTPUTS[:1])
    assert evaluator.evaluate()["count"]["MAE"] == pytest.approx(1)


def test_processes_share_the_images(register, evaluate_as_one, log):
    name = register(records(), **CLASSES)
    whole, main, other = (CountEvaluator(name, 0.5) for _ in range(3))
    whole.process(records(), OUTPUTS)
    main.process(records()[:2], OUTPUTS[:2])
    other.process(records()[1:], OUTPUTS[1:])  # b.png was evaluated twice
    expected = whole.evaluate()
    assert evaluate_as_one(main, other) == expected
    table = next(message for message in log if message.startswith("Numbers of objects"))
    assert [cell.strip() for cell in table.splitlines()[-1].split("|")[1:4]] == [
        "all",
        "7.00",
        "5.00",
    ]


def test_segments_count_where_there_are_no_instances(register):
    """Stuff does not, in the prediction nor in the annotation."""
    classes = {"stuff_classes": ["sky", "cat"], "thing_dataset_id_to_contiguous_id": {7: 1}}
    segments = [{"id": i, "category_id": int(i > 1)} for i in range(1, 4)]
    record = {"file_name": "a.png", "segments_info": segments}
    evaluator = CountEvaluator(register([record], **classes), 0.5)
    evaluator.process([record], [{"panoptic_seg": (torch.zeros(4, 4), segments[:2])}])
    assert evaluator.evaluate()["count"]["MAE-cat"] == 1  # of two


def test_a_class_that_is_a_crowd_everywhere():
    true = np.array([[np.nan, 1.0], [np.nan, 3.0]])
    metrics = count_errors(np.array([[1.0, 1.0], [2.0, 2.0]]), true, ["cat", "dog"])
    assert math.isnan(metrics["MAE-cat"]) and metrics["MAE"] == metrics["MAE-dog"] == 0.5
    assert math.isnan(count_errors(np.zeros((0, 2)), np.zeros((0, 2)), ["cat", "dog"])["RMSE"])


def test_refusals(register, tmp_path):
    with pytest.raises(UserError, match="thing_dataset_id_to_contiguous_id"):
        CountEvaluator(register(records(), stuff_classes=["sky"]), 0.5)
    name = register([{"file_name": "a.png"}], **CLASSES)
    with pytest.raises(UserError, match="have no objects to count"):
        CountEvaluator(name, 0.5).check_ground_truth()
    evaluator = CountEvaluator(register(records(), **CLASSES), 0.5)
    with pytest.raises(UserError, match=r"d\.png: no record"):
        evaluator.process([{"file_name": "d.png"}], OUTPUTS[:1])


def test_counts_beside_ap(register, tmp_path):
    name = register(records(), **CLASSES, evaluator_type="coco", json_file="x.json")
    options = {"INSTANCE_ON": True, "PANOPTIC_ON": False, "SEMANTIC_ON": False}
    options = {f"MODEL__MASK_FORMER__TEST__{key}": value for key, value in options.items()}
    cfg = tiny_cfg(tmp_path, **options, TEST__COUNT__ENABLED=True)
    assert isinstance(build_evaluator(cfg, name).evaluators[-1], CountEvaluator)
    cfg.TEST.COUNT.ENABLED = False
    assert len(build_evaluator(cfg, name).evaluators) == 1
    semantic = register(records(), evaluator_type="sem_seg", stuff_classes=["sky"])
    options = {"MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False, "TEST__COUNT__ENABLED": True}
    with pytest.raises(UserError, match="no objects to count: set .*INSTANCE_ON or PANOPTIC_ON"):
        build_evaluator(tiny_cfg(tmp_path, **options), semantic)


def test_a_table_of_numbers(register, tmp_path):
    counter = ObjectCounter(MetadataCatalog.get(register([], **CLASSES)))
    assert counter(OUTPUTS[0]) == {0: 3, 1: 1}  # any score
    path = tmp_path / "new" / "counts.csv"
    with CountWriter(path, counter) as writer:
        writer.add("photos/a, b.png", OUTPUTS[0])
        writer.add("c\udcff.png", OUTPUTS[1])  # a name that is no UTF-8
    with path.open(newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["file_name", "cat", "dog", "total"],
            ["photos/a, b.png", "3", "1", "4"],
            ["c\udcff.png", "1", "1", "2"],
        ]
    with CountWriter(tmp_path / "none.csv", counter):
        pass
    assert not (tmp_path / "none.csv").exists()
