"""What a user sees when something is wrong: one message for mistakes that we explain."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

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
        message, file = _origin(error)
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        if not os.path.abspath(file).startswith(package + os.sep):
            raise
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE)


def _origin(error: Exception) -> tuple[str, str]:
    """The error's message, and the source file that raised it."""
    text = str(error)
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if re.match(r"Caught \w+ in DataLoader worker", text):
        # PyTorch hands the error of a worker on as the text of its traceback.
        files = re.findall(r'^  File "(.+)", line \d', text, re.MULTILINE)
        text = text.split(f"\n{type(error).__name__}: ")[-1].rstrip()
    return text, files[-1]
