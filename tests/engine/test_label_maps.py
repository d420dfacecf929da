"""Which evaluators get label maps, and which scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from PIL import Image
from torch import nn

from mask_former.engine import Trainer
from mask_former.engine.label_maps import label_maps_where_accepted
from mask_former.evaluation import Evaluators, SemanticEvaluator
from tests.engine.tiny import tiny_cfg


class Taker(DatasetEvaluator):
    accepts_label_maps = True


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Trainer.build_model(tiny_cfg("unused")).eval()


@pytest.mark.parametrize(
    ("evaluator", "labels"),
    [
        (Taker(), True),
        (DatasetEvaluator(), False),
        (Evaluators([Taker(), Taker()]), True),
        (Evaluators([Taker(), DatasetEvaluator()]), False),
    ],
    ids=["one", "another", "both", "one of two"],
)
def test_label_maps_only_where_every_evaluator_accepts_them(model, evaluator, labels):
    with label_maps_where_accepted(nn.Sequential(model), evaluator):
        assert model.inference.semantic_labels == labels
    assert not model.inference.semantic_labels


def test_what_was_asked_for_is_restored_after_an_error(model):
    with pytest.raises(KeyError), label_maps_where_accepted(model, Taker()):
        raise KeyError
    assert not model.inference.semantic_labels


def test_labels_that_the_config_asks_for_are_nobodys_to_take_back(model):
    asked = model.inference
    model.inference = replace(asked, semantic_labels=True)
    with label_maps_where_accepted(model, DatasetEvaluator()):
        assert model.inference.semantic_labels
    assert model.inference.semantic_labels
    model.inference = asked


def read_png(path, dtype):
    return np.array(Image.open(path), dtype=dtype)


class Spy(SemanticEvaluator):
    def reset(self):
        super().reset()
        self.dimensions = set()

    def process(self, inputs, outputs):
        self.dimensions |= {output["sem_seg"].dim() for output in outputs}
        super().process(inputs, outputs)


@pytest.mark.parametrize("tta", [False, True], ids=["once", "augmented"])
def test_ours_on_label_maps_and_detectron2s_on_scores_agree(shapes_root, model, tta):
    cfg = tiny_cfg("unused", DATASETS__TEST=("shapes_val_semantic",), TEST__AUG__MIN_SIZES=(48,))
    evaluators = {
        "ours": Spy("shapes_val_semantic"),
        # Its own way of reading fails with NumPy 2.
        "theirs": SemSegEvaluator(
            "shapes_val_semantic", distributed=False, sem_seg_loading_fn=read_png
        ),
    }

    def metrics(name):
        class Chosen(Trainer):
            build_evaluator = classmethod(lambda *_: evaluators[name])

        if tta:
            return Chosen.test_with_TTA(cfg, model)["sem_seg_TTA"]
        return Chosen.test(cfg, model)["sem_seg"]

    ours, theirs = metrics("ours"), metrics("theirs")
    assert evaluators["ours"].dimensions == {2}
    for metric in ("mIoU", "fwIoU", "pACC"):
        assert ours[metric] == pytest.approx(theirs[metric])
