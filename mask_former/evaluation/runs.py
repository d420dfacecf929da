"""Pixels of two maps, counted together: what every figure of merit starts from."""

from typing import NamedTuple

import numpy as np

from mask_former.errors import UserError


class Runs(NamedTuple):
    """Runs of pixels, in reading order, along which neither of two maps changes.

    Attributes:
        pred: the value of each run in the predicted map, (R,).
        gt: in the annotated map, (R,).
        lengths: pixels of each run, int64 (R,); None: one each. Weights for `numpy.bincount`.
    """

    pred: np.ndarray
    gt: np.ndarray
    lengths: np.ndarray | None


def joint_runs(pred: np.ndarray, gt: np.ndarray) -> Runs:
    """The runs of two maps, integers (H, W).

    Neighbours mostly are of the same segments, so that there are few runs: the pixels themselves
    are compared with their neighbours, and nothing else is done with them. Where that is not so, as
    in noise, every pixel is a run.

    Raises:
        ValueError: maps of different sizes, or not of integers.
    """
    if pred.shape != gt.shape:
        raise UserError(
            f"the prediction has height and width {pred.shape}, the ground truth {gt.shape}"
        )
    for what, values in (("prediction", pred), ("ground truth", gt)):
        if values.dtype.kind not in "biu":
            raise UserError(
                f"the {what} is a map of {values.dtype}; labels and segment ids are integers"
            )
    pred, gt = pred.ravel(), gt.ravel()
    changed = (pred[1:] != pred[:-1]) | (gt[1:] != gt[:-1])
    if 2 * np.count_nonzero(changed) > changed.size:
        return Runs(pred, gt, None)
    starts = np.concatenate(([0], np.flatnonzero(changed) + 1))
    return Runs(pred[starts], gt[starts], np.diff(starts, append=pred.size))
