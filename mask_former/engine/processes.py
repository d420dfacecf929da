"""Processes that end together, and with the one that started them."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch.multiprocessing as mp

from mask_former.engine import interruption

# So long, in seconds, processes that are to end may take before they are killed.
GRACE = 60
_POLL = 0.5


class Processes:
    """Processes that run `function(rank, *arguments)`.

    They ignore Ctrl-C, which a terminal sends to all at once: this process passes it on to them as
    SIGTERM, as it does with SIGTERM and SIGUSR1.

    Args:
        function: importable by name, since new processes import it.
        count: how many.
    """

    def __init__(self, function: Callable[..., None], count: int, *arguments: Any) -> None:
        self._function = function
        self._count = count
        self._arguments = arguments
        self._processes: list[BaseProcess] = []
        self._signal: signal.Signals | None = None

    def run(self) -> int:
        """Start the processes and wait until all have ended; none outlives the call.

        Returns:
            0 when all ended with it, otherwise the exit code of the first that did not; 128 + n
            when signal n ended it.

        Raises:
            torch.multiprocessing.ProcessRaisedException: one raised an error; with its traceback.
        """
        before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
        for number in before:
            signal.signal(number, self._pass_on)
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit
            context = mp.start_processes(
                self._function, self._arguments, nprocs=self._count, join=False
            )
            self._processes = context.processes
            if before[signal.SIGINT] is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._pass_on)
            if self._signal:  # It came before there were all of them.
                self._pass_on(self._signal, None)
            return self._wait(context)
        finally:
            # Also those of a start that was not completed.
            for process in self._processes or multiprocessing.active_children():
                process.kill()
                process.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        if number == signal.SIGINT:  # the next one ends this process and, with it, all
            signal.signal(signal.SIGINT, signal.default_int_handler)
            number = signal.SIGTERM
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def _wait(self, context: mp.ProcessContext) -> int:
        running = list(self._processes)
        while running:
            connection.wait([process.sentinel for process in running])
            ended = [process for process in running if not process.is_alive()]
            running = [process for process in running if process not in ended]
            failed = next((process for process in ended if process.exitcode), None)
            if failed is not None:
                self._end(running, grace=GRACE if failed.exitcode == interruption.EXIT_CODE else 0)
                # Only of the first, since the others fail because it did.
                context.sentinels = {failed.sentinel: self._processes.index(failed)}
                return self._exit_code(context)
        return 0

    def _end(self, processes: list[BaseProcess], grace: float) -> None:
        end = time.monotonic() + grace
        for process in processes:
            process.join(max(0, end - time.monotonic()))
            process.kill()
            process.join()

    def _exit_code(self, context: mp.ProcessContext) -> int:
        try:
            context.join()
        except mp.ProcessExitedException as error:
            code = error.exit_code
            if code >= 0:
                return code  # The process has said why.
            if self._signal:
                print(f"ended by {self._signal.name}", file=sys.stderr, flush=True)
                return 128 + self._signal
            hint = ": is there too little memory?" if -code == signal.SIGKILL else ""
            print(f"error: {error}{hint}", file=sys.stderr, flush=True)
            return 128 - code
        return 0


def end_with_parent() -> None:
    """See to it that this process ends when its parent has: by SIGTERM, or, where that has no
    effect for a minute, at once."""
    started_by, parent = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        if started_by:  # which may have ended meanwhile, or have had another one fork this process
            started_by.join()
        else:
            while os.getppid() == parent:
                time.sleep(_POLL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
