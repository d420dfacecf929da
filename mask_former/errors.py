"""Errors that are meant for users; only these are shown without a traceback."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names the place, the value and the way out."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class ExistingFileError(UserError, FileExistsError):
    """A file or folder is there that would be overwritten."""


class UnwritableFileError(UserError, OSError):
    """A file cannot be written."""
