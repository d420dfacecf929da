"""The learning rate and the batch size: whether one was chosen for the other, and how both change
with the number of processes."""

import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from detectron2.config import CfgNode

from mask_former.engine.keys import section_of
from mask_former.errors import UserError

# The keys that count iterations.
ITERATIONS = (
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.BACKBONE_WARMUP_ITERS",
    "MODEL.EOMT.ANNEALING_START",
    "MODEL.EOMT.ANNEALING_END",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)

logger = logging.getLogger(__name__)


def rate_of_another_batch(settings: Iterable[tuple[str, Any, str]]) -> str:
    """What to say where SOLVER.BASE_LR was set together with one batch size, by a recipe, and
    another one was set after it, as by the command line; "" where that is not so.

    Args:
        settings: key, value and source, from the first to the last that is applied.
    """
    batch = rate = batch_of_rate = origin = None
    for source, group in groupby(settings, key=lambda setting: setting[2]):
        values = {key: value for key, value, _ in group}
        batch = values.get("SOLVER.IMS_PER_BATCH", batch)
        if "SOLVER.BASE_LR" in values:
            rate, batch_of_rate, origin = values["SOLVER.BASE_LR"], batch, source
    if batch_of_rate is None or int(batch) == int(batch_of_rate):
        return ""
    proportional = float(rate) * int(batch) / int(batch_of_rate)
    return (
        f"SOLVER.BASE_LR {float(rate):g} of {origin} is for SOLVER.IMS_PER_BATCH {batch_of_rate}, "
        f"which now is {batch}. In proportion to the batch it would be SOLVER.BASE_LR "
        f"{proportional:g}, and SOLVER.MAX_ITER {int(batch_of_rate) / int(batch):g} times as large."
    )


def scaled_to_processes(cfg: CfgNode, processes: int) -> CfgNode:
    """`cfg` for so many processes, where SOLVER.REFERENCE_WORLD_SIZE says for how many it is
    written; `cfg` itself where they are as many, or the key is 0.

    As Detectron2 scales it: each process keeps its share of the batch, so that the batch and in
    proportion the rate change (arXiv:1706.02677, section 2.1), and all numbers of iterations in
    inverse proportion. Besides, the EMA forgets as much an image (arXiv:2307.13813, definition
    1.2), and no number of iterations becomes 0.

    Raises:
        UserError: the processes of the reference cannot share SOLVER.IMS_PER_BATCH.
    """
    check_reference_world_size(cfg)
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return cfg
    factor = processes / reference
    scaled = _with_scaled_iterations(cfg, factor)
    scaled.defrost()
    solver = scaled.SOLVER
    solver.REFERENCE_WORLD_SIZE = processes
    solver.IMS_PER_BATCH = solver.IMS_PER_BATCH // reference * processes
    solver.BASE_LR = solver.BASE_LR * factor
    solver.BASE_LR_END = solver.BASE_LR_END * factor
    solver.EMA_DECAY = solver.EMA_DECAY**factor
    scaled.freeze()
    logger.info(
        f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, and there are {processes} processes: batch, "
        f"learning rate and EMA decay are multiplied by {factor:g} (the latter's exponent), and "
        "numbers of iterations divided by it."
    )
    return scaled


def with_iterations(cfg: CfgNode, max_iter: int) -> CfgNode:
    """`cfg` with SOLVER.MAX_ITER `max_iter`, and all other numbers of iterations in proportion."""
    return _with_scaled_iterations(cfg, cfg.SOLVER.MAX_ITER / max_iter)


def _with_scaled_iterations(cfg: CfgNode, factor: float) -> CfgNode:
    """`cfg` with all numbers of iterations divided by `factor`."""
    scaled = cfg.clone()
    scaled.defrost()
    for key in ITERATIONS:
        section, name = section_of(scaled, key)
        section[name] = _scaled(section[name], factor)
    scaled.freeze()
    return scaled


def _scaled(iterations: int | Sequence[int], factor: float) -> int | Sequence[int]:
    if isinstance(iterations, int):
        return iterations and max(1, round(iterations / factor))
    return type(iterations)(_scaled(number, factor) for number in iterations)


def check_reference_world_size(cfg: CfgNode) -> None:
    """Raise UserError unless SOLVER.REFERENCE_WORLD_SIZE processes can share the batch."""
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference and batch % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which SOLVER.REFERENCE_WORLD_SIZE {reference} "
            "processes cannot share equally: make it a multiple of them."
        )
