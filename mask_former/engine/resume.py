"""Whether a training can continue from a checkpoint, and with which schedule."""

from typing import Any

from detectron2.utils import comm
from torch.optim import Optimizer

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.errors import MissingFileError, UserError


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


def keep_current_schedule(state: dict[str, Any]) -> None:
    """Leave of the learning rate's schedule in `state` only the position.

    Its shape is that of the current configuration: SOLVER.MAX_ITER may have grown.
    """
    schedule = state["hooks"]["LRScheduler"]
    for constant in schedule.keys() - {"last_epoch", "_step_count", "_last_lr"}:
        del schedule[constant]


def check_resumable(state: dict[str, Any], optimizer: Optimizer) -> None:
    """Raise UserError unless `state` is that of a `Trainer` with such an optimizer."""
    if not {"iteration", "hooks", "optimizer", "step"} <= state.keys():
        raise UserError(
            "The checkpoint that is to be resumed was not written by this trainer. To start a "
            "training from its weights, name it in MODEL.WEIGHTS and leave out --resume."
        )
    # Adam's groups have betas. Not all keys: they grow in number with PyTorch's versions.
    saved, current = (
        [(len(group["params"]), "betas" in group) for group in groups]
        for groups in (state["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"])
    )
    if saved != current:
        raise UserError(
            "The optimizer of the checkpoint that is to be resumed does not fit the configuration: "
            "SOLVER.OPTIMIZER is another one, or SOLVER.BACKBONE_MULTIPLIER and "
            "SOLVER.WEIGHT_DECAY* or MODEL.BACKBONE.FREEZE_AT group the weights in another way."
        )
