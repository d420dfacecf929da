"""What users see when something goes wrong: errors that are meant for them without a traceback."""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mask_former.engine import interruption
from mask_former.errors import UserError

EXIT_CODE = 2
# What shells report of a process that Ctrl-C has ended.
CTRL_C = 130

# The disk's and the administrator's, whoever was writing; no bug of ours.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the process with the message of a `UserError`, exit code 2 and no traceback.

    So does a disk that is full or read-only. A training that a signal has stopped ends with 75 and
    what was kept, Ctrl-C anywhere else with 130. Every other exception passes: it is a bug, and its
    traceback says where.
    """
    try:
        yield
    except interruption.Interrupted as stop:
        if str(stop):
            print(stop, file=sys.stderr, flush=True)
        sys.exit(interruption.EXIT_CODE)
    except KeyboardInterrupt:
        print("ended by Ctrl-C", file=sys.stderr, flush=True)
        sys.exit(CTRL_C)
    except (UserError, OSError) as error:
        if is_bug(error):
            raise
        print(f"error: {message(error)}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE)


def is_bug(error: BaseException) -> bool:
    """Whether an error is shown with its traceback."""
    return not (
        isinstance(error, UserError) or isinstance(error, OSError) and error.errno in _NO_SPACE
    )


def message(error: Exception) -> str:
    """The message of an error, also where it was raised in a worker of a DataLoader.

    PyTorch raises it again in the main process, with the worker's traceback as its text.
    """
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker", text):
        return text
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return text.rpartition(f"\n{name}: ")[2].rstrip()
