"""The random generators of a process: read, restored, and kept in the checkpoint."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

State = dict[str, Any]


def get_random_state() -> State:
    """The state of Python's, NumPy's and PyTorch's generators, made of plain values and tensors
    only, so that a checkpoint with it can be read without unpickling objects."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: State) -> None:
    """Restore what `get_random_state` returned."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave the generators after the block as they were before it."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


class RandomState(HookBase):
    """Put the random state of every process into the checkpoints, and take it back on resume.

    Runs in all processes, before the hook that writes checkpoints: only the main process writes,
    so the states must have been gathered when it does.

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
            logging.getLogger(__name__).warning(
                f"The checkpoint holds the random state of {len(self._states)} processes, this run "
                f"has {comm.get_world_size()}: it continues with new random numbers."
            )

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._states = comm.gather(get_random_state())

    def state_dict(self) -> State:
        return {"states": self._states}

    def load_state_dict(self, state: State) -> None:
        self._states = state["states"]
        self._restore = True
