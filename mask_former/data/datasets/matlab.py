"""Files of MATLAB, in which some data sets keep their label maps."""

from pathlib import Path

import numpy as np

from mask_former.errors import UserError


def read_mat(path: Path, variable: str) -> np.ndarray:
    """A variable of a MATLAB file; `a.b` is the field b of the structure a.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is broken, or has no such variable.
    """
    from scipy.io import loadmat  # takes time, and few data sets need it

    name, *fields = variable.split(".")
    try:
        value = loadmat(str(path), variable_names=[name], squeeze_me=True)[name]
        for field in fields:
            value = value[field].item()
        return value
    except FileNotFoundError:
        raise
    except Exception as error:  # the reader raises anything
        raise UserError(
            f"{path}: the variable {variable} cannot be read ({type(error).__name__}: {error}). "
            "Unpack the data set again."
        ) from error


def read_mat_labels(path: Path, variable: str, last: int) -> np.ndarray:
    """A label map, int64 (H, W), of labels 0 to `last`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is broken, or holds something else.
    """
    labels = read_mat(path, variable)
    # MATLAB may store integers as floating-point numbers.
    known = np.isin(labels, range(last + 1)).all() if labels.dtype.kind in "uif" else False
    if labels.ndim != 2 or not known:
        raise UserError(
            f"{path} holds a label map of shape {labels.shape} and type {labels.dtype} with labels "
            f"that the data set does not have: it has (height, width) and 0 to {last}. Unpack the "
            "data set again."
        )
    return labels.astype(np.int64)


def read_stems(path: Path) -> list[str]:
    """The names of images, without suffix, that a text file lists.

    Raises:
        UserError: it lists none.
    """
    stems = path.read_text(encoding="utf-8").split()
    if not stems:
        raise UserError(f"{path} names no images; unpack the data set again")
    return stems
