"""The mean of what the queries of a model predict in several views of an image.

A query's index means little in another view: what one query finds at the left of an image, another
finds in its mirror image. So the queries of every view are assigned, one to one, to those of the
views before it; see `match_queries`.

Where a view does not find what others found, a query that found nothing is assigned. Its class
logits count: the views disagree. Its mask was never trained and says nothing. So a mask counts by
the probability that its query found an object.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Masks of different views are compared on a grid of so many cells a side.
_GRID = 64
# Least weight of a mask: where no view found anything, there is still a mean.
_LEAST_WEIGHT = 1e-6


def match_queries(reference: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Assign the queries of two predictions to each other, so that they differ least.

    A query adds the product of its class probabilities and its mask probabilities to the semantic
    scores. These products are compared: the assignment has the least sum of squared differences,
    which is the largest sum of inner products. Queries that are "no object" in both add nearly
    nothing, and may be assigned in any way.

    Args:
        reference, other: probabilities of the classes without "no object", (Q, K), and of the
            mask's pixels, (Q, P).

    Returns:
        for each query of `reference` the index of one of `other`, a permutation, (Q,).
    """
    from scipy.optimize import linear_sum_assignment  # takes time, and few need it

    # In float32 also where the model runs in mixed precision.
    with torch.autocast(reference[0].device.type, enabled=False):
        classes, masks = (a.float() @ b.float().T for a, b in zip(reference, other, strict=True))
    _, index = linear_sum_assignment((classes * masks).cpu().numpy(), maximize=True)
    return torch.from_numpy(index).to(classes.device)


class Mean:
    """The weighted mean of tensors of one shape, given one by one."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0

    def add(self, value: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add a value; its weight, >= 0, is a number or of a shape that fits the value's."""
        self._sum = self._sum + value * weight
        self._weight = self._weight + weight

    @property
    def value(self) -> Tensor:
        return self._sum / self._weight


class QueryMean:
    """The mean class logits, (Q, K+1), and mask logits, (Q, H, W), of the queries in all views."""

    def __init__(self) -> None:
        self._class_logits, self._mask_logits = Mean(), Mean()
        self._reference: tuple[Tensor, Tensor] | None = None

    @property
    def value(self) -> tuple[Tensor, Tensor]:
        return self._class_logits.value, self._mask_logits.value

    def add(self, class_logits: Tensor, mask_logits: Tensor) -> None:
        """Add a view's predictions, (Q, K+1) and (Q, H, W), turned to how the image lies."""
        described = _describe(class_logits, mask_logits)
        if self._reference is None:
            self._reference = described
        order = match_queries(self._reference, described)
        found = described[0].sum(1).clamp(min=_LEAST_WEIGHT)
        self._class_logits.add(class_logits[order])
        self._mask_logits.add(mask_logits[order], found[order, None, None])

    def end_scale(self) -> None:
        """Compare the views that follow with the mean of those so far.

        Not after every view: compared with the same queries, an image and its mirror image give a
        symmetric mean if the image is symmetric.
        """
        if self._reference is not None:
            self._reference = _describe(*self.value)


def _describe(class_logits: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """What `match_queries` compares, with masks on a coarse grid: (Q, K) and (Q, P)."""
    grid = [min(side, _GRID) for side in mask_logits.shape[-2:]]
    masks = F.adaptive_avg_pool2d(mask_logits.sigmoid(), grid)
    return class_logits.softmax(-1)[:, :-1], masks.flatten(1)
