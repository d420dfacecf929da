"""What users see when something goes wrong: errors that are meant for them without a traceback."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mask_former.errors import UserError

EXIT_CODE = 2


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the process with the message of a `UserError`, exit code 2 and no traceback.

    Every other exception passes: it is a bug, and its traceback says where.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {message(error)}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE)


def message(error: UserError) -> str:
    """The message of an error, also where it was raised in a worker of a DataLoader.

    PyTorch raises it again in the main process, with the worker's traceback as its text.
    """
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker", text):
        return text
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return text.rpartition(f"\n{name}: ")[2].rstrip()
