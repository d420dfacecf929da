"""Errors that are meant for users.

`mask_former.engine.reported_errors` shows these, and only these, without a traceback: any other
exception is a bug of ours, or comes from a library.
"""


class UserError(ValueError):
    """A mistake that the user can mend: the message names the place, the value and the way out."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


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
