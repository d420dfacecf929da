"""Annotation files, spoiled at random: all goes well, or ends with one of our errors."""

import copy
import logging
import tempfile
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mask_former.data import json_files
from mask_former.data.checks import check_data
from mask_former.data.datasets import register_instances, register_panoptic
from mask_former.data.mapper import MaskFormerDatasetMapper
from mask_former.data.records import load_records
from mask_former.data.report import examine
from mask_former.engine.config import load_config
from mask_former.errors import UserError
from mask_former.evaluation import build_evaluator
from tests.data.small_coco import HEIGHT, WIDTH, instances, panoptic, write_files, write_json

NAME = "test_mutated"
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 60),
    st.sampled_from([2**24, 2**31, 2**63, 10**400, -(10**9)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-60, 120),
    st.sampled_from(["", "1", "a.png", "cat", "../a.png", "PPYo1", "\u0000", "\ud83d\ude00"]),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=7),
        st.dictionaries(st.sampled_from(["id", "size", "counts", "name"]), inner, max_size=3),
    ),
    max_leaves=8,
)


def places(content, path=()):
    """The paths of all values in nested lists and objects."""
    keys = range(len(content)) if isinstance(content, list) else content
    for key in keys if isinstance(content, list | dict) else ():
        yield (*path, key)
        yield from places(content[key], (*path, key))


@st.composite
def spoiled(draw, content):
    """`content` with one or two values replaced, removed, repeated, or put in another's place."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        *path, key = draw(st.sampled_from(list(places(content))))
        parent = content
        for step in path:
            parent = parent[step]
        what = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "move"]))
        if what == "remove":
            del parent[key]
        elif what == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif what == "move":
            source = content
            for step in draw(st.sampled_from(list(places(content)))):
                source = source[step]
            parent[key] = copy.deepcopy(source)
        else:
            parent[key] = draw(VALUES)
        if not list(places(content)):
            break
    return content


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        yield Path(folder)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("mask_former.data.report.tqdm", lambda results, *_, **__: results)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    json_files.forget_files()


def use(mapper, **switches):
    """Do with the registered data set what a training does: check, map, evaluate; and report all
    its faults, of which there are some where it is refused, and none else."""
    options = ["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,), "INPUT.FORMAT", "RGB"]
    options += ["INPUT.DATASET_MAPPER_NAME", mapper, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2]
    options += ["INPUT.MIN_SIZE_TRAIN", (HEIGHT,), "MODEL.DEVICE", "cpu"]
    for key, value in {"SEMANTIC_ON": False, **switches}.items():
        options += [f"MODEL.MASK_FORMER.TEST.{key}", value]
    try:
        cfg = load_config(opts=options)
    except UserError:  # of the categories
        return "refused"
    try:
        check_data(cfg)
        evaluator = build_evaluator(cfg, NAME)
        evaluator.check_ground_truth()
    except UserError:
        json_files.forget_files()
        assert faults(cfg)
        return "refused"
    assert not faults(cfg)
    # From here on nothing may go wrong.
    train = MaskFormerDatasetMapper(cfg, is_train=True)
    for record in load_records(NAME, filter_empty=True):
        sample = train(record)
        assert len(sample["instances"].gt_masks) == len(sample["instances"].gt_classes)
    evaluator.reset()
    for record in load_records(NAME):
        evaluator.process([record], [prediction()])
    assert evaluator.evaluate()
    return "accepted"


def faults(cfg):
    return [fault for report in examine(cfg, workers=1) for fault in report.all_faults()]


def prediction():
    found = Instances((HEIGHT, WIDTH))
    found.pred_masks = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    found.pred_masks[0, 10:30, 10:30] = True
    found.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 30.0, 30.0]]))
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    segments = torch.ones(HEIGHT, WIDTH, dtype=torch.int32)
    return {"instances": found, "panoptic_seg": (segments, [{"id": 1, "category_id": 1}])}


def use_instances(folder, content):
    json_file = write_json(folder / "instances.json", content)
    register_instances(NAME, image_root=folder / "images", json_file=json_file)
    try:
        return use("mask_former_instance", INSTANCE_ON=True)
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def use_panoptic(folder, content):
    register_panoptic(
        NAME,
        image_root=folder / "images",
        panoptic_root=folder / "labels",
        panoptic_json=write_json(folder / "panoptic.json", content),
    )
    try:
        return use("mask_former_panoptic", PANOPTIC_ON=True)
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


many = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_sound_files_are_accepted(folder):
    assert use_instances(folder, instances()) == use_panoptic(folder, panoptic()) == "accepted"


@many
@given(content=spoiled(instances()))
def test_instances(folder, content):
    use_instances(folder, content)


@many
@given(content=spoiled(panoptic()))
def test_panoptic(folder, content):
    use_panoptic(folder, content)
