"""Contenders in processes of their own, each with the memory management that it comes with."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection

from mask_former.engine.host_memory import keep_freed_memory

Make = Callable[[], Callable[[], object]]


@contextmanager
def in_processes(
    contenders: Mapping[str, Make], *, keep: frozenset[str]
) -> Iterator[dict[str, Callable[[], None]]]:
    """Make contenders, each in a process; a call of the result runs one there and waits for it.

    Args:
        contenders: functions, importable by name, or `partial`s of such, that make what is run.
        keep: those whose process keeps freed memory, as our training and evaluation do.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, make in contenders.items():
        pipes[name], end = context.Pipe()
        process = context.Process(target=_serve, args=(end, make, name in keep), daemon=True)
        process.start()
        processes.append(process)
        pipes[name].recv()  # one after the other: making them takes all cores
    try:
        yield {name: _Remote(pipe) for name, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()


class _Remote:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self) -> None:
        self._pipe.send(None)
        self._pipe.recv()


def _serve(pipe: Connection, make: Make, keep: bool) -> None:
    if keep:
        keep_freed_memory()
    run = make()
    pipe.send(None)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        run()
        pipe.send(None)
