"""Files of MATLAB, in which some data sets keep their label maps."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from mask_former.data.datasets.preparing import build_folder, require_files
from mask_former.data.writing import write_image
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


def convert_label_maps(
    stems: Collection[str],
    variable: str,
    class_of: np.ndarray,
    *,
    images: Path,
    annotations: Path,
    folder: Path,
    description: str,
) -> None:
    """Make a folder of PNG of class ids from .mat files of labels, unless it exists.

    Args:
        stems: the names of the images, without suffix.
        variable: of the label map, see `read_mat`.
        class_of: the class id of each label, uint8 (L,).
        images: folder of the images, STEM.jpg, which have to be there.
        annotations: folder of STEM.mat.
        folder: to be made, of STEM.png.
        description: of the progress bar.

    Raises:
        FileNotFoundError: the download is incomplete.
        UserError: a .mat file is broken; the folder exists, but lacks files.
    """
    require_files(images, [f"{stem}.jpg" for stem in stems])
    require_files(annotations, [f"{stem}.mat" for stem in stems])
    jobs = {f"{stem}.png": annotations / f"{stem}.mat" for stem in stems}
    build_folder(folder, jobs, partial(_convert, variable, class_of), description=description)


def _convert(variable: str, class_of: np.ndarray, source: Path, path: Path) -> None:
    write_image(path, class_of[read_mat_labels(source, variable, len(class_of) - 1)])
