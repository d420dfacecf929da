"""Errors that are meant for users.

`mask_former.engine.reported_errors` shows these, and only these, without a traceback: any other
exception is a bug of ours, or comes from a library.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend: the message names the place, the value and the way out."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class BrokenFileError(UserError):
    """A file is not what its name says, or only a part of it."""


class ExistingFileError(UserError, FileExistsError):
    """A file or folder is there that would be overwritten."""


class UnwritableFileError(UserError, OSError):
    """A file cannot be written."""


class DownloadError(UserError, ConnectionError):
    """An address cannot be downloaded."""


class NonFiniteError(UserError, FloatingPointError):
    """A prediction, a loss or a weight is NaN or infinite."""

    REMEDY = (
        "If the data are right, a smaller SOLVER.BASE_LR or more SOLVER.WARMUP_ITERS help, "
        "SOLVER.CLIP_GRADIENTS.ENABLED True, or float32: SOLVER.AMP.ENABLED False."
    )


def listed(items: Sequence[Any], most: int = 10) -> str:
    """The first few of the items, and how many more there are, for an error message."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def check_choice(key: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise UserError unless the value of a key is one of those that it may have."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{key} is {value!r}, but must be one of {', '.join(choices)}.")


@contextmanager
def prefixed(place: str) -> Iterator[None]:
    """Put the place where something went wrong before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{place}{error}") from error


_collected: ContextVar[list[UserError] | None] = ContextVar("collected", default=None)


@contextmanager
def collected_faults() -> Iterator[list[UserError]]:
    """Have `report` keep errors, in the list that this gives, instead of raising them."""
    faults: list[UserError] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)


def report(error: UserError) -> None:
    """Raise `error`, a fault of one entry among many.

    In `collected_faults` it is kept, to find all of them; the caller then goes on without the
    entry.
    """
    faults = _collected.get()
    if faults is None:
        raise error
    faults.append(error)
