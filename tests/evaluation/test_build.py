import pytest
from detectron2.config import get_cfg

from mask_former.config import add_mask_former_config
from mask_former.evaluation import (
    EVALUATORS,
    BackgroundEvaluators,
    Evaluators,
    InstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    build_evaluator,
)

EVERYTHING = {
    "stuff_classes": ["cat", "grass"],
    "thing_dataset_id_to_contiguous_id": {17: 0},
    "stuff_dataset_id_to_contiguous_id": {93: 1},
    "panoptic_json": "panoptic.json",
    "panoptic_root": "panoptic",
    "sem_seg_root": "semantic",
    "json_file": "instances.json",
}


def config(**switches):
    cfg = get_cfg()
    add_mask_former_config(cfg)
    for name in ("SEMANTIC", "PANOPTIC", "INSTANCE"):
        cfg.MODEL.MASK_FORMER.TEST[f"{name}_ON"] = switches.get(name.lower(), False)
    return cfg


def kinds(evaluators: Evaluators) -> set[type]:
    return {type(evaluator) for evaluator in evaluators.evaluators}


ALL_ON = {"semantic": True, "panoptic": True, "instance": True}
ALL = {PanopticEvaluator, SemanticEvaluator, InstanceEvaluator}


@pytest.mark.parametrize(
    ("evaluator_type", "switches", "lacking", "expected"),
    [
        ("sem_seg", ALL_ON, [], {SemanticEvaluator}),
        ("sem_seg", ALL_ON, ["sem_seg_root"], {SemanticEvaluator}),
        ("coco", ALL_ON, [], {InstanceEvaluator}),
        ("coco_panoptic_seg", ALL_ON, [], ALL),
        ("ade20k_panoptic_seg", ALL_ON, [], ALL),
        ("coco_panoptic_seg", ALL_ON, ["sem_seg_root"], ALL - {SemanticEvaluator}),
        ("coco_panoptic_seg", ALL_ON, ["json_file"], ALL - {InstanceEvaluator}),
        ("coco_panoptic_seg", {"panoptic": True}, [], {PanopticEvaluator}),
        ("coco_panoptic_seg", {"semantic": True}, [], {SemanticEvaluator}),
    ],
)
def test_table(register, evaluator_type, switches, lacking, expected):
    metadata = {k: v for k, v in EVERYTHING.items() if k not in lacking}
    name = register([], evaluator_type=evaluator_type, **metadata)
    assert kinds(build_evaluator(config(**switches), name)) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", Evaluators), ("cuda", BackgroundEvaluators), ("cuda:1", BackgroundEvaluators)],
)
def test_works_beside_a_model_that_is_elsewhere(register, device, expected):
    cfg = config(**ALL_ON)
    cfg.MODEL.DEVICE = device
    name = register([], evaluator_type="coco_panoptic_seg", **EVERYTHING)
    evaluator = build_evaluator(cfg, name)
    assert type(evaluator) is expected
    assert kinds(evaluator) == ALL


@pytest.mark.parametrize("metadata", [{"evaluator_type": "lvis"}, {}])
def test_unknown_type_lists_the_known(register, metadata):
    name = register([], **metadata)
    with pytest.raises(ValueError) as error:
        build_evaluator(config(**ALL_ON), name)
    for known in (name, *EVALUATORS):
        assert known in str(error.value)


@pytest.mark.parametrize(
    ("evaluator_type", "switches", "lacking", "key"),
    [
        ("coco_panoptic_seg", {}, [], "PANOPTIC_ON"),
        ("coco_panoptic_seg", {"semantic": True}, ["sem_seg_root"], "PANOPTIC_ON"),
        ("sem_seg", {"panoptic": True}, [], "SEMANTIC_ON"),
        ("coco", {"semantic": True}, [], "INSTANCE_ON"),
    ],
)
def test_nothing_to_evaluate_says_what_to_switch_on(
    register, evaluator_type, switches, lacking, key
):
    metadata = {k: v for k, v in EVERYTHING.items() if k not in lacking}
    name = register([], evaluator_type=evaluator_type, **metadata)
    with pytest.raises(ValueError, match=f"set MODEL.MASK_FORMER.TEST.{key} True"):
        build_evaluator(config(**switches), name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coco_2017_val_panoptic", ["PanopticEvaluator", "InstanceEvaluator"]),
        ("ade20k_sem_seg_val", ["SemanticEvaluator"]),
        ("coco_2017_val", ["InstanceEvaluator"]),
    ],
)
def test_detectron2s_own_data_sets(name, expected):
    """Built without a file of the data set being touched."""
    evaluators = build_evaluator(config(**ALL_ON), name).evaluators
    assert [type(evaluator).__name__ for evaluator in evaluators] == expected
