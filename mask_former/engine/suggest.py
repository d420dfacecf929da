"""What a recipe has to change for a data set and a machine, and why."""

import os

import numpy as np
import torch
from detectron2.config import CfgNode

from mask_former.data import large_scale_jitter
from mask_former.data.discovery import Suggestion
from mask_former.data.report import DatasetReport
from mask_former.engine.keys import value_of
from mask_former.engine.learning_rate import with_iterations
from mask_former.engine.memory import MIB, device_memory, training_memory
from mask_former.engine.optimizer import TWO_STAGE
from mask_former.precision import training_precision

# Images larger than that are made smaller; segments are to stay at least so wide.
_MOST_SIDE, _LEAST_SEGMENT = 1024, 16
# Scales of crops relative to the images, in tenths, as in the recipes of semantic segmentation.
_CROP_SCALES, _SCALES = range(5, 21), range(8, 13)
# Room for images that have more segments than those that were seen.
_QUERIES_MARGIN = 1.25
# How often an image is seen; iterations at least and, in most recipes, images at most.
_EPOCHS, _FEWEST, _MOST = 50, 5_000, 2_000_000
# A batch has at most this part of the images, but so many in each process: some norms need them.
_BATCHES, _SMALLEST = 10, 2
# Numbers of iterations that change as SOLVER.MAX_ITER does; the scheduler that reads them, if one
# does; what happens then.
_IN_PROPORTION = (
    ("SOLVER.STEPS", "WarmupMultiStepLR", "where the rate falls"),
    ("SOLVER.BACKBONE_WARMUP_ITERS", TWO_STAGE, "of the backbone, which comes later"),
    (
        "MODEL.EOMT.ANNEALING_START",
        "",
        "where masked attention begins to disappear, block by block",
    ),
    ("MODEL.EOMT.ANNEALING_END", "", "where it is gone, as in inference"),
)
# Of the memory of a device, the part that an estimate may fill.
_FILLED = 0.75
_MOST_WORKERS = 8


def suggest(cfg: CfgNode, report: DatasetReport, processes: int) -> list[Suggestion]:
    """What to change.

    Args:
        cfg: the recipe with the data set, and with MODEL.DEVICE; is changed as suggested.
        report: of the training set.
        processes: that will train.
    """
    published_batch = cfg.SOLVER.IMS_PER_BATCH
    made: list[Suggestion] = []
    for of_what in (_queries, _sizes, _precision):
        made += _applied(cfg, of_what(cfg, report))
    made += _applied(cfg, _batch(cfg, report, processes))
    made += _applied(cfg, _schedule(cfg, report, published_batch))
    return made + _applied(cfg, _workers(processes))


def _applied(cfg: CfgNode, suggestions: list[Suggestion]) -> list[Suggestion]:
    cfg.merge_from_list([x for s in suggestions for x in (s.key, s.value)])
    return suggestions


def _queries(cfg: CfgNode, report: DatasetReport) -> list[Suggestion]:
    if not report.num_queries or cfg.MODEL.MASK_FORMER.MATCHER == "fixed":
        return []
    most, queries = int(report.segments_per_image().max()), report.num_queries
    seen = f"images have up to {most} segments, {report.segments_per_image().mean():.1f} on average"
    needed = round(most * _QUERIES_MARGIN)
    key, found = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", []
    if needed <= queries:
        found.append(Suggestion(key, queries, f"{seen}: the recipe's number suffices"))
    else:
        needed = -(-needed // 50) * 50
        why = f"{seen}, and each needs a query. The queries of trained weights do not fit then"
        found.append(Suggestion(key, needed, why))
    if cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON and most > cfg.TEST.DETECTIONS_PER_IMAGE:
        why = "instances an image that are kept, as many as there are queries"
        found.append(Suggestion("TEST.DETECTIONS_PER_IMAGE", max(needed, queries), why))
    return found


def _sizes(cfg: CfgNode, report: DatasetReport) -> list[Suggestion]:
    if cfg.MODEL.VIT.IMG_SIZE or cfg.TEST.WINDOW.SIZE:
        why = "with all other sizes the recipe's: its network is for images, or windows, of one"
        return [Suggestion("INPUT.MIN_SIZE_TEST", cfg.INPUT.MIN_SIZE_TEST, why)]
    sides = np.array([size for size, n in report.sizes().items() for _ in range(n)])
    shorter, longer = (int(np.median(side)) for side in (sides.min(axis=1), sides.max(axis=1)))
    side, why = _side(report, shorter)
    ratio = (sides.max(axis=1) / sides.min(axis=1)).max()
    longest = -(-round(side * float(ratio)) // 32) * 32
    median = f"the median image is {longer} x {shorter} (longer x shorter side). {why}"
    test = [
        Suggestion("INPUT.MIN_SIZE_TEST", side, f"the shorter side in evaluation: {median}"),
        Suggestion("INPUT.MAX_SIZE_TEST", longest, "so that no image is made smaller than that"),
    ]
    if cfg.INPUT.DATASET_MAPPER_NAME in large_scale_jitter.NAMES:
        size = -(-round(side * longer / shorter) // 32) * 32
        size = min(size, max(_MOST_SIDE, side // 32 * 32))
        why = "the square of large-scale jitter: the longer side, in steps of 32"
        return [Suggestion("INPUT.IMAGE_SIZE", size, why), *test]
    crop = cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute"
    steps = _CROP_SCALES if crop else _SCALES
    scales = [side * k // 10 for k in steps]
    train = [
        Suggestion(
            "INPUT.MIN_SIZE_TRAIN",
            scales,
            f"the shorter side in training: {steps[0] / 10} to {steps[-1] / 10} times that of "
            "evaluation",
        ),
        Suggestion("INPUT.MAX_SIZE_TRAIN", 2 * longest, "so that no image is made smaller"),
    ]
    if crop:
        size = max(min(side, max(cfg.INPUT.CROP.SIZE)) // 32 * 32, 32)
        why = "as large as the recipe's crop, or the images, in steps of 32"
        train.append(Suggestion("INPUT.CROP.SIZE", [size, size], why))
        why = "the same, so that images smaller than a crop are padded to it"
        train.append(Suggestion("INPUT.SIZE_DIVISIBILITY", size, why))
    elif cfg.INPUT.CROP.ENABLED and side < max(cfg.INPUT.CROP.SIZE):
        why = "the recipe's crops would be larger than the images"
        train.append(Suggestion("INPUT.CROP.ENABLED", False, why))
    return [*train, *test]


def _side(report: DatasetReport, shorter: int) -> tuple[int, str]:
    """The shorter side that images are scaled to."""
    if shorter <= _MOST_SIDE:
        return shorter, "Images stay as large as they are"
    small = float(np.percentile(np.sqrt(report.segment_areas()), 10))
    side = max(_MOST_SIDE, min(shorter, round(shorter * _LEAST_SEGMENT / small)))
    why = (
        f"They are made smaller; of the segments, whose smallest tenth is under {small:.0f} "
        f"pixels wide, these are then under {small * side / shorter:.0f}"
    )
    return side, why


def _precision(cfg: CfgNode, report: DatasetReport) -> list[Suggestion]:
    cfg.SOLVER.AMP.ENABLED = True
    precision = training_precision(cfg)
    return [Suggestion("SOLVER.AMP.ENABLED", precision.dtype is not None, precision.reason)]


def training_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of the largest training images, as they reach the network."""
    if cfg.INPUT.DATASET_MAPPER_NAME in large_scale_jitter.NAMES:
        return cfg.INPUT.IMAGE_SIZE, cfg.INPUT.IMAGE_SIZE
    if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute":
        return tuple(cfg.INPUT.CROP.SIZE)
    side = max(cfg.INPUT.MIN_SIZE_TRAIN)
    return side, min(cfg.INPUT.MAX_SIZE_TRAIN, side * 3 // 2)


def _batch(cfg: CfgNode, report: DatasetReport, processes: int) -> list[Suggestion]:
    size = training_size(cfg)
    memory = training_memory(cfg, size, mixed=cfg.SOLVER.AMP.ENABLED)
    device = torch.device(cfg.MODEL.DEVICE)
    available = device_memory(device)
    share = available if device.type == "cuda" else available / processes
    fitting = max(int((share * _FILLED - memory.fixed) / memory.image), 1)
    published = cfg.SOLVER.IMS_PER_BATCH
    wanted = min(published, max(report.num_images // _BATCHES, _SMALLEST * processes))
    batch = min(fitting, max(wanted // processes, 1)) * processes
    shared = f" {processes} processes share a batch." if processes > 1 else ""
    why = (
        f"the recipe's is {published}; no more than a tenth of the images, and what fits. By an "
        f"estimate the model takes {memory.fixed / MIB / 1024:.1f} GiB, and "
        f"{memory.image / MIB:.0f} MiB for each image of {size[1]} x {size[0]}; {device} has "
        f"{available / MIB / 1024:.1f} GiB.{shared} "
        "If memory does not suffice, halve it, and the learning rate"
    )
    rate = float(f"{cfg.SOLVER.BASE_LR * batch / published:.3g}")
    why_rate = f"the recipe's, {cfg.SOLVER.BASE_LR:g} for batches of {published}, in proportion"
    return [
        Suggestion("SOLVER.IMS_PER_BATCH", batch, why),
        Suggestion("SOLVER.BASE_LR", rate, why_rate),
    ]


def _schedule(cfg: CfgNode, report: DatasetReport, published_batch: int) -> list[Suggestion]:
    solver, batch = cfg.SOLVER, cfg.SOLVER.IMS_PER_BATCH
    least = min(_FEWEST, solver.MAX_ITER)
    most = max(solver.MAX_ITER * published_batch, _MOST) // batch
    iterations = min(max(_EPOCHS * report.num_images // batch, least), most)
    times = iterations * batch / report.num_images
    why = (
        f"each of the {report.num_images} images is seen {times:.0f} times: {_EPOCHS} times, "
        f"but in at least {least} iterations. More can help"
    )
    found = [Suggestion("SOLVER.MAX_ITER", iterations, why)]
    scaled = with_iterations(cfg, iterations)
    for key, scheduler, what in _IN_PROPORTION:
        value = value_of(scaled, key)
        if value and scheduler in ("", solver.LR_SCHEDULER_NAME):
            value = list(value) if isinstance(value, tuple) else value
            found.append(Suggestion(key, value, f"{what}, in proportion to the recipe's"))
    warmup = min(max(solver.WARMUP_ITERS, 10), iterations // 10)
    found.append(
        Suggestion("SOLVER.WARMUP_ITERS", warmup, "in which the rate grows to its full height")
    )
    period = max(iterations // 10, 1)
    return [
        *found,
        Suggestion("SOLVER.CHECKPOINT_PERIOD", period, "ten times in all"),
        Suggestion("TEST.EVAL_PERIOD", period, "ten times; the best checkpoint is kept"),
    ]


def _workers(processes: int) -> list[Suggestion]:
    cores = os.cpu_count() or 1
    workers = min(max(cores // processes - 1, 0), _MOST_WORKERS)
    why = f"processes that read images, for each that trains: there are {cores} cores"
    return [Suggestion("DATALOADER.NUM_WORKERS", workers, why)]
