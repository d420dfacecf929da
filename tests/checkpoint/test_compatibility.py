"""Fine-tuning on other classes: everything but the class head is loaded, and the log says so."""

import logging

import pytest
import torch
from detectron2.modeling import build_model

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.compatibility import class_head
from mask_former.engine import DefaultPredictor
from mask_former.engine.trainer import Trainer
from tests.engine.tiny import tiny_cfg

PREDICTOR = "sem_seg_head.predictor."
CLASSIFIER = {f"{PREDICTOR}class_embed.weight", f"{PREDICTOR}class_embed.bias"}
QUERIES = {f"{PREDICTOR}query_embed.weight"}

# name -> options for a number of classes, and the weights that depend on them
MODELS = {
    "MaskFormer": (lambda classes: {}, CLASSIFIER),
    "fixed matching": (
        lambda classes: {
            "MODEL__MASK_FORMER__MATCHER": "fixed",
            "MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": classes,
        },
        CLASSIFIER | QUERIES,
    ),
    "Mask2Former, fixed matching": (
        lambda classes: {
            "MODEL__MASK_FORMER__PREDICTOR_NAME": "MultiScaleMaskedTransformerDecoder",
            "MODEL__MASK_FORMER__MATCHER": "fixed",
            "MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": classes,
        },
        CLASSIFIER | QUERIES | {f"{PREDICTOR}query_feat.weight"},
    ),
    "PerPixelBaseline": (
        lambda classes: {
            "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL__SEM_SEG_HEAD__NAME": "PerPixelBaselineHead",
        },
        {f"{PREDICTOR}weight", f"{PREDICTOR}bias"},
    ),
    "PerPixelBaseline+": (
        lambda classes: {
            "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL__SEM_SEG_HEAD__NAME": "PerPixelBaselinePlusHead",
            "MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": classes,
        },
        QUERIES,
    ),
}


def make_cfg(folder, classes, model="MaskFormer", **options):
    return tiny_cfg(
        folder,
        MODEL__SEM_SEG_HEAD__NUM_CLASSES=classes,
        MODEL__MASK_FORMER__TEST__PANOPTIC_ON=False,
        INPUT__DATASET_MAPPER_NAME="mask_former_semantic",
        **MODELS[model][0](classes),
        **options,
    )


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def pretrained(tmp_path):
    """Saves a model of 7 classes; returns its file and its weights."""

    def pretrained(model="MaskFormer"):
        built = build_model(make_cfg(tmp_path, 7, model))
        MaskFormerCheckpointer(built, str(tmp_path)).save_weights("pretrained")
        return str(tmp_path / "pretrained.pth"), state(built)

    return pretrained


@pytest.mark.parametrize("model", MODELS)
def test_all_but_what_depends_on_the_classes_is_loaded(pretrained, tmp_path, caplog, model):
    file, weights = pretrained(model)
    cfg = make_cfg(tmp_path / "run", 4, model, MODEL__WEIGHTS=file)
    with pytest.raises(ValueError, match="trained for 7 classes.*NUM_CLASSES is 4.*") as caught:
        Trainer(cfg).resume_or_load(resume=False)
    assert "MODEL.WEIGHTS_WITHOUT_CLASS_HEAD to True" in str(caught.value)

    cfg.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD = True
    trainer = Trainer(cfg)
    before, (_, left_out) = state(trainer.model), MODELS[model]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        trainer.resume_or_load(resume=False)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, (before if name in left_out else weights)[name]), name
    messages = [text for text in caplog.messages if "depend on the classes" in text]
    assert messages == [f"Not loaded, since they depend on the classes: {sorted(left_out)}"]


def test_a_class_head_that_fits_is_left_out_as_well(pretrained, tmp_path):
    """Seven classes again, but others."""
    file, weights = pretrained()
    model = build_model(make_cfg(tmp_path, 7))
    before = state(model)
    MaskFormerCheckpointer(model).load(file, without_class_head=True)
    for name in CLASSIFIER:
        assert torch.equal(model.state_dict()[name], before[name])
        assert not torch.equal(before[name], weights[name])


def test_anything_else_must_still_fit(pretrained, tmp_path):
    file, _ = pretrained()
    wide = {"MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": 5}
    cfg = make_cfg(tmp_path, 4, MODEL__WEIGHTS_WITHOUT_CLASS_HEAD=True, MODEL__WEIGHTS=file, **wide)
    with pytest.raises(ValueError, match=r"query_embed.weight: \(20, 32\) in the file, \(5, 32\)"):
        Trainer(cfg).resume_or_load(resume=False)


def test_a_resumed_training_keeps_its_class_head(pretrained, tmp_path):
    file, _ = pretrained()
    options = {"MODEL__WEIGHTS": file, "MODEL__WEIGHTS_WITHOUT_CLASS_HEAD": True}
    cfg = make_cfg(tmp_path / "run", 4, **options)
    (tmp_path / "run").mkdir()
    first = Trainer(cfg)
    first.iter = 2
    first.checkpointer.save("model_0000002")
    second = Trainer(cfg)
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_a_trained_model_is_used_whole(tmp_path):
    """The config of a fine-tuning, with the weights that came of it."""
    cfg = make_cfg(tmp_path, 4, MODEL__WEIGHTS_WITHOUT_CLASS_HEAD=True)
    trained = build_model(cfg)
    MaskFormerCheckpointer(trained, str(tmp_path)).save_weights("trained")
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.pth")
    loaded = DefaultPredictor(cfg).model.state_dict()
    for name in CLASSIFIER:
        assert torch.equal(loaded[name], trained.state_dict()[name])
    # There, leaving something out is no way out of an error.
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    with pytest.raises(ValueError, match="trained for 4 classes") as caught:
        DefaultPredictor(cfg)
    assert "WITHOUT_CLASS_HEAD" not in str(caught.value)


def test_queries_are_the_classes_only_where_one_stands_for_each(tmp_path):
    """Not wherever there are as many of them."""
    options = {"MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": 4}
    assert class_head(build_model(make_cfg(tmp_path, 4, **options))) == CLASSIFIER
    assert class_head(build_model(make_cfg(tmp_path, 4, "fixed matching"))) == CLASSIFIER | QUERIES
