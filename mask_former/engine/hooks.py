"""Hooks of the trainer that Detectron2 does not have."""

import logging

from detectron2.engine import HookBase, TrainerBase
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from mask_former.data.random_state import State, get_random_state, set_random_state

logger = logging.getLogger(__name__)


def is_due(trainer: TrainerBase, period: int) -> bool:
    """Whether the present iteration gets a checkpoint: every `period`, and the last."""
    done = trainer.iter + 1
    return done % period == 0 or done == trainer.max_iter


class ModelSchedule(HookBase):
    """Tell the modules that change in the course of a training which iteration comes next: by
    their method `at_iteration`, before the first one, and after each.

    Runs before the hook that writes checkpoints, which hold the state for the iteration after.

    Args:
        models: the one that is trained, and its EMA, which this shall not be an average of.
    """

    def __init__(self, *models: nn.Module) -> None:
        modules = (module for model in models for module in model.modules())
        self._modules = {module for module in modules if hasattr(module, "at_iteration")}

    def before_train(self) -> None:
        self._tell(self.trainer.start_iter)

    def after_step(self) -> None:
        self._tell(self.trainer.iter + 1)

    def _tell(self, iteration: int) -> None:
        for module in self._modules:
            module.at_iteration(iteration)


class ProgressBar(HookBase):
    """A progress bar with the loss, the speed and the estimated time left.

    Args:
        show: True or False; None shows it where standard error is a terminal.
    """

    def __init__(self, show: bool | None = None) -> None:
        self._disable = None if show is None else not show
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        self._bar = tqdm(
            desc="Training",
            initial=self.trainer.start_iter,
            total=self.trainer.max_iter,
            unit="it",
            disable=self._disable,
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        loss = self.trainer.storage.history("total_loss").median(20)
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        if self._bar is not None:  # None: a hook failed before the first iteration
            self._bar.close()


class RandomState(HookBase):
    """Save the random state of every process in the checkpoints, and restore it when resuming.

    Runs in all processes, before the hook that writes checkpoints: only the main process writes,
    and by then must have gathered the states of all.

    Args:
        period: iterations between two checkpoints. The last iteration always has one.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._states: list[State] = []
        self._restore = False

    def before_train(self) -> None:
        if not self._restore:
            return
        if len(self._states) == comm.get_world_size():
            set_random_state(self._states[comm.get_rank()])
        else:
            logger.warning(
                f"The checkpoint holds the random state of {len(self._states)} processes, this run "
                f"has {comm.get_world_size()}: it continues with new random numbers."
            )

    def after_step(self) -> None:
        if is_due(self.trainer, self._period):
            self.gather()

    def gather(self) -> None:
        """Gather the states for a checkpoint; called in all processes."""
        self._states = comm.gather(get_random_state())

    def state_dict(self) -> State:
        return {"states": self._states}

    def load_state_dict(self, state: State) -> None:
        self._states = state["states"]
        self._restore = True
