"""Several evaluators as one."""

import json
import subprocess
import sys
import threading

import pytest
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset

from mask_former.evaluation import (
    BackgroundEvaluators,
    Evaluators,
    InstanceEvaluator,
    SemanticEvaluator,
)


class Sum(DatasetEvaluator):
    """Adds the outputs up; -1 is wrong."""

    def __init__(self, task: str = "sum") -> None:
        self.task = task
        self.may_work = threading.Event()
        self.may_work.set()

    def reset(self):
        self.total = 0

    def process(self, inputs, outputs):
        assert self.may_work.wait(timeout=60)
        for output in outputs:
            if output == -1:
                raise ValueError(f"image {inputs[0]} is wrong")
            self.total += output

    def evaluate(self):
        return {self.task: {"total": self.total}}


@pytest.mark.parametrize("kind", [Evaluators, BackgroundEvaluators])
def test_label_maps_are_accepted_if_all_accept_them(register, kind):
    name = register([], stuff_classes=["cat"], json_file="instances.json")
    ours = [SemanticEvaluator(name), InstanceEvaluator(name)]
    assert kind(ours).accepts_label_maps
    assert not kind([*ours, Sum()]).accepts_label_maps


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("evaluation")]


def test_all_batches_count_when_it_evaluates():
    evaluator = BackgroundEvaluators([Sum("a"), Sum("b")])
    loader = [[i] for i in range(20)]
    metrics = inference_on_dataset(lambda inputs: inputs, loader, evaluator)
    assert metrics == {"a": {"total": 190}, "b": {"total": 190}}
    assert not threads()
    # Once more, with a new thread.
    assert inference_on_dataset(lambda inputs: inputs, loader, evaluator) == metrics


def test_does_not_wait_for_a_batch_before_the_next():
    inner = Sum()
    evaluator = BackgroundEvaluators([inner])
    evaluator.reset()
    inner.may_work.clear()
    evaluator.process(["first"], [1])  # would wait for a minute, and fail
    assert inner.total == 0
    inner.may_work.set()
    evaluator.process(["second"], [2])
    assert inner.total >= 1
    assert evaluator.evaluate() == {"sum": {"total": 3}}


def test_an_error_is_raised_by_the_call_that_follows():
    evaluator = BackgroundEvaluators([Sum()])
    evaluator.reset()
    evaluator.process(["first"], [-1])
    with pytest.raises(ValueError, match="image first is wrong"):
        evaluator.process(["second"], [1])
    evaluator.process(["third"], [-1])
    with pytest.raises(ValueError, match="image third is wrong"):
        evaluator.evaluate()
    assert not threads()


def test_reset_forgets_an_error():
    evaluator = BackgroundEvaluators([Sum()])
    evaluator.reset()
    evaluator.process(["first"], [-1])
    evaluator.reset()
    assert evaluator.evaluate() == {"sum": {"total": 0}}


def test_ground_truth_is_checked_where_asserts_are_left_out(tmp_path):
    images = [{"id": 1, "file_name": "a.png", "height": 2, "width": 3}]
    categories = [{"id": 3, "name": "cat"}]
    content = {"images": images, "annotations": [], "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    code = f"""if True:
        from detectron2.data import DatasetCatalog, MetadataCatalog
        from mask_former.errors import UserError
        from mask_former.evaluation import InstanceEvaluator
        from mask_former.evaluation.counts import CountEvaluator
        DatasetCatalog.register("x", lambda: [{{"file_name": "a.png", "image_id": 1}}])
        MetadataCatalog.get("x").set(
            thing_classes=["cat"],
            thing_dataset_id_to_contiguous_id={{77: 0}},
            json_file={str(tmp_path / "instances.json")!r},
        )
        for evaluator in (InstanceEvaluator("x"), CountEvaluator("x", 0.5)):
            try:
                evaluator.check_ground_truth()
            except UserError as error:
                print(error)
    """
    run = [sys.executable, "-O", "-c", code]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "lacks the categories [77]" in said and "have no objects to count" in said
