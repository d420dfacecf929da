"""What is suggested for data and a machine."""

import numpy as np
import pytest

from mask_former.data.inspection import Inspection
from mask_former.data.report import DatasetReport
from mask_former.engine import load_config, suggest
from mask_former.engine.memory import Memory

GIB = 2**30
ADE20K = "configs/ade20k-150/maskformer_R50_bs16_160k.yaml"
JITTER = "configs/mask2former/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"
EOMT = "configs/eomt/ade20k/semantic/eomt_large_512.yaml"
DETR = "configs/coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A model of 2 GiB, and 1 GiB for each image, on a device of 16."""
    sizes = []
    monkeypatch.setattr(suggest, "device_memory", lambda device: 16 * GIB)
    monkeypatch.setattr(
        suggest,
        "training_memory",
        lambda cfg, size, mixed: sizes.append(size) or Memory(2 * GIB, GIB),
    )
    return sizes


def report(sizes=((480, 640),), segments=5, side=50, images=1000, queries=100):
    found = []
    for size in sizes:
        classes, areas = np.zeros(segments, np.int64), np.full(segments, side**2)
        found.append(Inspection("x", size=size, classes=classes, areas=areas))
    return DatasetReport("x", ["a"], queries, images, inspections=found)


def values(recipe, *args, processes=1, **options):
    cfg = load_config(recipe, ["MODEL.DEVICE", "cpu"])
    return {s.key: s.value for s in suggest.suggest(cfg, report(*args, **options), processes)}


def test_crops(machine):
    found = values(ADE20K)
    assert found["INPUT.MIN_SIZE_TEST"] == 480 and found["INPUT.MAX_SIZE_TEST"] == 640
    assert found["INPUT.CROP.SIZE"] == [480, 480] and found["INPUT.SIZE_DIVISIBILITY"] == 480
    assert found["INPUT.MIN_SIZE_TRAIN"][0] == 240 and found["INPUT.MIN_SIZE_TRAIN"][-1] == 960
    assert machine == [(480, 480)]
    assert values(ADE20K, [(700, 900)])["INPUT.CROP.SIZE"] == [512, 512]  # as the recipe's


def test_large_scale_jitter(machine):
    found = values(JITTER)
    assert found["INPUT.IMAGE_SIZE"] == 640 and "INPUT.CROP.SIZE" not in found
    assert machine == [(640, 640)]


def test_a_network_for_one_size_keeps_the_sizes_of_its_recipe(machine):
    found = values(EOMT, [(96, 128)])
    assert found["INPUT.MIN_SIZE_TEST"] == 512 and "INPUT.IMAGE_SIZE" not in found
    assert machine == [(512, 512)]


def test_all_numbers_of_iterations_are_in_proportion():
    cfg = load_config(EOMT)
    recipe, found = cfg.SOLVER.MAX_ITER, values(EOMT)
    factor = found["SOLVER.MAX_ITER"] / recipe
    assert factor < 0.5
    ends = [round(factor * end) for end in cfg.MODEL.EOMT.ANNEALING_END]
    assert found["MODEL.EOMT.ANNEALING_END"] == ends and ends[-1] <= found["SOLVER.MAX_ITER"]
    starts = [round(factor * start) for start in cfg.MODEL.EOMT.ANNEALING_START]
    assert found["MODEL.EOMT.ANNEALING_START"] == starts
    warmup = round(factor * cfg.SOLVER.BACKBONE_WARMUP_ITERS)
    assert found["SOLVER.BACKBONE_WARMUP_ITERS"] == warmup
    assert "SOLVER.STEPS" not in found  # its schedule has none


def test_crops_that_are_larger_than_the_images():
    assert values(DETR)["INPUT.CROP.ENABLED"] is False
    assert "INPUT.CROP.ENABLED" not in values(DETR, [(700, 900)])


def test_large_images_are_made_smaller_unless_segments_would_vanish():
    assert values(ADE20K, [(3000, 4000)], side=200)["INPUT.MIN_SIZE_TEST"] == 1024
    # So that segments of 20 pixels still have 16.
    assert values(ADE20K, [(3000, 4000)], side=20)["INPUT.MIN_SIZE_TEST"] == 2400
    assert values(ADE20K, [(3000, 4000)], side=4)["INPUT.MIN_SIZE_TEST"] == 3000


def test_queries():
    assert values(JITTER, segments=80)["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] == 100
    found = values(JITTER, segments=130)
    assert found["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] == 200
    assert found["TEST.DETECTIONS_PER_IMAGE"] == 200
    assert not any("QUERIES" in key for key in values(JITTER, queries=0))


def test_the_batch_fits_into_memory():
    found = values(ADE20K)
    assert found["SOLVER.IMS_PER_BATCH"] == 10  # (0.75 * 16 - 2) / 1
    assert found["SOLVER.BASE_LR"] == pytest.approx(0.0001 * 10 / 16, rel=1e-2)
    # Two processes share the machine's memory: 4 images each.
    assert values(ADE20K, processes=2)["SOLVER.IMS_PER_BATCH"] == 8


def test_the_batch_is_not_larger_than_the_recipes_nor_a_tenth_of_the_images(monkeypatch):
    monkeypatch.setattr(suggest, "device_memory", lambda device: 80 * GIB)
    assert values(ADE20K)["SOLVER.IMS_PER_BATCH"] == 16
    assert values(ADE20K, images=50)["SOLVER.IMS_PER_BATCH"] == 5
    assert values(ADE20K, images=3)["SOLVER.IMS_PER_BATCH"] == 2
    # A process has two, since some norms need them.
    assert values(ADE20K, images=30, processes=4)["SOLVER.IMS_PER_BATCH"] == 8


def test_schedule():
    found = values(ADE20K, images=10_000)
    assert found["SOLVER.MAX_ITER"] == 50 * 10_000 // 10
    assert found["TEST.EVAL_PERIOD"] == found["SOLVER.CHECKPOINT_PERIOD"] == 5_000
    assert values(ADE20K, images=100)["SOLVER.MAX_ITER"] == 5_000
    # Not more images than the recipe's.
    assert values(ADE20K, images=10**6)["SOLVER.MAX_ITER"] == 160_000 * 16 // 10
    steps = values(JITTER, images=10_000)["SOLVER.STEPS"]
    assert steps == [327778 * 50_000 // 368750, 355092 * 50_000 // 368750]


def test_precision_is_what_the_device_computes(monkeypatch):
    for native, enabled in ((True, True), (False, False)):
        monkeypatch.setattr("mask_former.precision._cpu_has_bfloat16", lambda native=native: native)
        assert values(ADE20K)["SOLVER.AMP.ENABLED"] is enabled


def test_every_line_says_why():
    cfg = load_config(ADE20K, ["MODEL.DEVICE", "cpu"])
    found = suggest.suggest(cfg, report(), 1)
    assert all(suggestion.why for suggestion in found)
    assert cfg.SOLVER.IMS_PER_BATCH == 10  # is applied
