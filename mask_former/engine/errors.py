"""What a user sees when something is wrong: one message for mistakes that we explain."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

EXIT_CODE = 2

_EXPLAINED = (ValueError, OSError, FloatingPointError)


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the process with a message, exit code 2 and no traceback for an error that this package
    raised to tell the user something.

    Any other error, among them a ValueError from the depths of a library, keeps its traceback.
    """
    try:
        yield
    except _EXPLAINED as error:
        if not _raised_here(error.__traceback__):
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE)


def _raised_here(traceback: TracebackType) -> bool:
    while traceback.tb_next:
        traceback = traceback.tb_next
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.abspath(traceback.tb_frame.f_code.co_filename).startswith(package + os.sep)
