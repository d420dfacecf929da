"""Files that appear under their name when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def replaced_when_complete(path: str) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` when it is complete and on the disk."""
    part = f"{path}.part"
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise
    # The new name, too, must survive a power cut.
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
