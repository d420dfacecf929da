"""Whether a training can continue from a checkpoint, with which schedule and which samples."""

import logging
import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.solver import LRScheduler
from detectron2.utils import comm
from torch.optim import Optimizer

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.engine.keys import flatten, value_of
from mask_former.errors import MissingFileError, UserError

# What decides, besides SOLVER.IMS_PER_BATCH, which samples an iteration gets.
_SAMPLE_KEYS = ("SEED", "DATASETS.TRAIN", "DATALOADER", "INPUT")
_NOT_SAMPLES = ("DATALOADER.NUM_WORKERS", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")

logger = logging.getLogger(__name__)


def has_checkpoint(checkpointer: MaskFormerCheckpointer) -> bool:
    """Whether there is a checkpoint to resume from.

    Raises:
        MissingFileError: some processes see one and others don't.
    """
    seen = comm.all_gather(checkpointer.has_checkpoint())
    if any(seen) and not all(seen):
        raise MissingFileError(
            f"The file last_checkpoint of OUTPUT_DIR {checkpointer.save_dir} is there for some "
            "processes and not for others. To resume on several machines, let OUTPUT_DIR be a "
            "folder that all of them share, or copy the checkpoint to each."
        )
    return all(seen)


def fit_to_config(state: dict[str, Any], cfg: CfgNode, optimizer: Optimizer) -> None:
    """Leave what the current configuration decides out of `state`; log what that changes.

    Of the learning rate's schedule only the position stays: SOLVER.MAX_ITER may have grown. Of the
    optimizer only its averages stay, and the rate until the schedule sets it.

    Raises:
        UserError: `state` is not that of a `Trainer` with such an optimizer.
    """
    _check_resumable(state, optimizer)
    schedule = state["hooks"]["LRScheduler"]
    for constant in schedule.keys() - {"last_epoch", "_step_count", "_last_lr"}:
        del schedule[constant]
    groups = state["optimizer"]["param_groups"]
    for saved, current in zip(groups, optimizer.param_groups, strict=True):
        # Weight decay, say, and which are of the backbone; the schedule goes on to set the rate.
        saved |= {key: value for key, value in current.items() if key not in ("params", "lr")}
        for key in saved.keys() - current.keys():
            del saved[key]
    _warn_of_other_samples(state.pop("samples", {}), cfg, state["iteration"] + 1)


def _check_resumable(state: dict[str, Any], optimizer: Optimizer) -> None:
    if not {"iteration", "hooks", "optimizer", "step"} <= state.keys():
        raise UserError(
            "The checkpoint that is to be resumed was not written by this trainer. To start a "
            "training from its weights, name it in MODEL.WEIGHTS and leave out --resume."
        )
    saved, current = (x["param_groups"] for x in (state["optimizer"], optimizer.state_dict()))
    if len(saved) != len(current) or not all(map(_same_weights, saved, current)):
        raise UserError(
            "The optimizer of the checkpoint that is to be resumed does not fit the configuration: "
            "SOLVER.OPTIMIZER is another one, or SOLVER.BACKBONE_MULTIPLIER, SOLVER.LAYER_DECAY, "
            "SOLVER.LR_FACTORS, SOLVER.WEIGHT_DECAY*, MODEL.FREEZE or MODEL.BACKBONE.FREEZE_AT "
            "group the weights in another way."
        )


def _same_weights(saved: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether a group of an optimizer has averages of the weights of another, one by one."""
    if "names" in saved and saved["names"] != current.get("names"):  # older checkpoints have none
        return False
    # Adam's groups have betas. Not all keys: they grow in number with PyTorch's versions.
    same_kind = ("betas" in saved) == ("betas" in current)
    return same_kind and len(saved["params"]) == len(current["params"])


def warn_of_another_rate(schedule: LRScheduler) -> None:
    """Log if a resumed training goes on at another learning rate than the checkpoint ended with.

    Not with PyTorch's own schedules, which make each rate of the one before.
    """
    if type(schedule).__module__.startswith("torch."):
        return
    pairs = zip(schedule.get_last_lr(), schedule.get_lr(), strict=True)
    changed = [pair for pair in pairs if not math.isclose(*pair, rel_tol=1e-6)]
    if changed:
        before, now = max(changed, key=max)
        logger.warning(
            f"The learning rate was {before:.5g} in the checkpoint and goes on at {now:.5g}: "
            "SOLVER.MAX_ITER, SOLVER.BASE_LR or what else its schedule depends on has changed."
        )


def check_resumed(checkpointer: MaskFormerCheckpointer, start_iter: int) -> None:
    """Raise UserError if the checkpoint that was loaded told no iteration to start at."""
    if not start_iter:
        raise UserError(
            f"{checkpointer.get_checkpoint_file()} holds weights only, from which no training can "
            "be resumed: name it in MODEL.WEIGHTS, and leave out --resume."
        )


def describe_kept(checkpointer: MaskFormerCheckpointer, done: int, of: int) -> str:
    """What an interrupted training has kept after `done` iterations."""
    return (
        f"{done} of {of} iterations are kept in {checkpointer.get_checkpoint_file()}; the same "
        "command with --resume, before any KEY VALUE, goes on from there."
    )


def sample_settings(cfg: CfgNode) -> dict[str, Any]:
    """The keys that decide which samples an iteration gets, and their values: plain ones, which a
    checkpoint can hold."""
    keys = ("SOLVER.IMS_PER_BATCH", *_SAMPLE_KEYS)
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten({key: value_of(cfg, key) for key in keys})
        if key not in _NOT_SAMPLES
    }


def _warn_of_other_samples(saved: dict[str, Any], cfg: CfgNode, start_iter: int) -> None:
    """Log what it changes that a training is resumed with other samples.

    Args:
        saved: the `sample_settings` of the checkpoint; empty: of an older one, without them.
    """
    current = sample_settings(cfg)
    key = "SOLVER.IMS_PER_BATCH"
    before, now = saved.get(key, current[key]), current.pop(key)
    if before != now and cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"{key} was {before} in the checkpoint and is {now} for the present number of "
            "processes: by SOLVER.REFERENCE_WORLD_SIZE all iterations would be counted anew. "
            "Resume with as many processes as before. To go on with fewer in the same memory, set "
            "REFERENCE_WORLD_SIZE to 0, IMS_PER_BATCH, BASE_LR and numbers of iterations to what "
            "they were, and SOLVER.ACCUMULATION_STEPS."
        )
    if before != now:
        seen, start = start_iter * before, start_iter * now
        effect = f"{seen - start} are seen again" if start < seen else f"{start - seen} are skipped"
        logger.warning(
            f"{key} was {before} in the checkpoint and is {now}. Samples go on at number {start}, "
            f"not {seen}: {effect}. SOLVER.BASE_LR ({cfg.SOLVER.BASE_LR:g}), SOLVER.MAX_ITER and "
            "SOLVER.STEPS, which are for one batch size, stay as they are in the config: in "
            f"proportion to the batch the learning rate would become {now / before:g} times as "
            "large."
        )
    others = [
        f"{key} was {saved[key]!r}, is {value!r}"
        for key, value in current.items()
        if key in saved and saved[key] != value
    ]
    if others:
        logger.warning(
            "The training does not go on with the samples that it would have seen: "
            f"{'; '.join(others)}."
        )
    if saved and cfg.SEED < 0:
        logger.info(f"SEED is {cfg.SEED}: the resumed training sees samples in another order.")
