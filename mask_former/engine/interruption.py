"""Signals that ask a run to stop: noted at once, acted upon where nothing gets lost.

SIGTERM (of `kill`, Slurm and container managers), SIGUSR1 (Slurm's warning, if asked for) and
SIGINT (Ctrl-C) are noted; the training, the evaluation or the demo looks at `asked` between two
steps.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch.utils.data import DataLoader

# EX_TEMPFAIL of sysexits.h: nothing is wrong, run it again.
EXIT_CODE = 75
SIGNALS = [signal.Signals[n] for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]


class Interrupted(Exception):
    """A signal has ended a training, whose checkpoint is kept; the message names it.

    Empty in all processes but the main one.
    """


# The first signal since `noted_signals`. Signals belong to the process, and so does this.
_first: signal.Signals | None = None


def asked() -> signal.Signals | None:
    """The signal that asked this process to stop."""
    return _first


def asked_anywhere() -> str:
    """The name of a signal that asked one of the processes to stop, the same in all; or "".

    All processes must call it.
    """
    return max(comm.all_gather(_first.name if _first else ""))


@contextmanager
def noted_signals() -> Iterator[None]:
    """Within the block signals are noted, and `asked` returns the first.

    A second Ctrl-C ends the process at once. A signal that the process was started to ignore, as
    SIGINT in the background of a script, stays ignored. Has no effect outside of the main thread,
    where Python allows no handlers.
    """
    global _first
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _first = None
    # None: a handler that was not set from Python.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _first = None


def _note(number: int, _: FrameType | None) -> None:
    global _first
    if number == signal.SIGINT:  # the next one has its default: the end
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _first is None:
        _first = signal.Signals(number)
        if comm.is_main_process():
            # Not print, which may be what was interrupted.
            os.write(2, f"\n{_first.name}: ends after this step; Ctrl-C ends at once.\n".encode())


def shield_workers(loader: Any) -> Any:
    """`loader`, whose workers, if it has some, leave signals to their process.

    Ctrl-C, and Slurm, signal all processes, and without its workers a training could not go on to
    a checkpoint. SIGTERM of the process itself, with which PyTorch ends its workers, still does.
    """
    if isinstance(loader, DataLoader) and hasattr(signal, "sigwaitinfo"):
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
    return loader


def _init_worker(init: Any, worker_id: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_by_parent, daemon=True).start()
    if init is not None:
        init(worker_id)


def _end_by_parent() -> None:
    parent = multiprocessing.parent_process().pid
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


class StoppableLoader:
    """The batches of a test loader, up to a signal."""

    def __init__(self, loader: Any) -> None:
        self._loader = shield_workers(loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if asked():
                return
            yield batch


class StoppableEvaluator(DatasetEvaluator):
    """An evaluator that computes no metrics of a part of a data set.

    Attributes:
        stopped: the evaluation was stopped by a signal, to any of the processes.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        self._evaluator = evaluator
        self.stopped = False

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        self.stopped = bool(asked_anywhere())
        return None if self.stopped else self._evaluator.evaluate()
