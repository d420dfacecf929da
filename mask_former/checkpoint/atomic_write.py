"""Files that appear under their name when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mask_former.errors import UnwritableFileError


@contextmanager
def replaced_when_complete(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` when it is complete and on the disk.

    Raises:
        UnwritableFileError: the file system refuses it, as a full disk does.
    """
    part = f"{path}.part"
    with explained_write_errors(path):
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


@contextmanager
def explained_write_errors(path: str | Path) -> Iterator[None]:
    """Turn an error of the file system, such as "No space left on device", into one that names the
    file.

    PyTorch, which also finds that its archive is not whole, hides it behind an error of its own.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__
        if reason is None:
            raise
        blocking = next((p for p in Path(path).parents if os.path.isfile(p)), None)
        why = f"{blocking} is not a folder" if blocking else reason.strerror or str(reason)
        raise UnwritableFileError(f"{path} cannot be written: {why}.") from error


def make_folder_of(path: str | Path) -> None:
    """Make the folder that a file is to be written to, if it is missing.

    Raises:
        UnwritableFileError: the file system refuses it.
    """
    with explained_write_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
