"""The random generators of a process: their state, and numbers that depend on a seed alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def get_random_state(*, gpu: bool = True) -> State:
    """The state of Python's, NumPy's and PyTorch's generators.

    Plain values and tensors only, so that a checkpoint with it can be read without unpickling
    objects.

    Args:
        gpu: with the generator of the current GPU, if there is one. A worker of a DataLoader, which
            is forked, cannot ask for it.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if gpu and torch.cuda.is_available():
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
def preserved_random_state(*, gpu: bool = True) -> Iterator[None]:
    """Leave the generators after the block as they were before it."""
    state = get_random_state(gpu=gpu)
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def random_state_of(seed: int, position: int) -> Iterator[None]:
    """Random numbers of Python, NumPy and PyTorch (CPU) that depend on the arguments alone.

    The generators' states are put back at the end: without workers they are the training's own.
    """
    words = np.random.SeedSequence([seed, position]).generate_state(3)
    with preserved_random_state(gpu=False):
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed GPUs, too
        yield
