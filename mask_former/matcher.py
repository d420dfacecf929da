"""Bipartite and fixed matching of predictions and ground truth (paper, section 3.2)."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mask_former.errors import UserError
from mask_former.losses.dense import ALL_PIXELS, AllPixels
from mask_former.losses.mask import DEFAULT_LOSSES, WeightedLoss, compile_losses, pairwise_losses
from mask_former.losses.points import PointSampling
from mask_former.structures import (
    Matching,
    Prediction,
    Target,
    at_least_float32,
    to_device,
    with_shared_features,
)


class NonFinitePredictions(FloatingPointError):
    """A prediction is NaN or infinite; `images` are the indices of its images in the batch."""

    def __init__(self, images: list[int]) -> None:
        super().__init__(f"predictions are not finite for images {images} of the batch")
        self.images = images


class HungarianMatcher:
    """Assigns every segment the query with which the total cost is least.

    The cost of a pair is the weighted sum of the mask losses, less `class_weight` times the
    probability of the segment's class. If an image has more segments than there are queries, the
    segments that fit worst get none. Pixels that are not valid have no cost.

    Args:
        mask_losses: what masks are compared by, with their weights.
        class_weight: weight of the probability, >= 0.
        where: all pixels, or points, at which masks are compared.
        compiled: compile what is computed for every pixel, when it first runs.
    """

    def __init__(
        self,
        *,
        mask_losses: Sequence[WeightedLoss] = DEFAULT_LOSSES,
        class_weight: float = 1.0,
        where: AllPixels | PointSampling = ALL_PIXELS,
        compiled: bool = False,
    ) -> None:
        self.weights = [weight for _, weight, _ in mask_losses]
        self.class_weight = class_weight
        self.where = where
        form = compile_losses(pairwise_losses) if compiled else pairwise_losses
        self.mask_losses = partial(form, [loss for _, _, loss in mask_losses])

    @torch.no_grad()
    def __call__(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Matching:
        """Match every layer of every image, with one transfer to the host for all of them.

        Args:
            predictions: of L layers, for B images.
            targets: of the B images; an image may have no segment.

        Raises:
            NonFinitePredictions: a prediction is NaN or infinite.
        """
        from scipy.optimize import linear_sum_assignment  # takes time, and only training needs it

        costs = [self.cost(predictions, i, target) for i, target in enumerate(targets)]
        finite = _finite_images(predictions)
        flat = torch.cat([finite.to(costs[0]), *(cost.flatten() for cost in costs)]).cpu().numpy()
        ok, *blocks = np.split(flat, np.cumsum([len(targets)] + [c.numel() for c in costs[:-1]]))
        # What is finite may still be too large for its product to be.
        _check_finite(a and np.isfinite(b).all() for a, b in zip(ok, blocks, strict=True))

        rows = []
        offset = 0
        for image, (cost, block) in enumerate(zip(costs, blocks, strict=True)):
            for layer, matrix in enumerate(block.reshape(cost.shape)):
                for query, segment in zip(*linear_sum_assignment(matrix), strict=True):
                    rows.append((layer, image, query, offset + segment))
            offset += cost.shape[2]
        return _matching(rows, predictions)

    def cost(self, predictions: Sequence[Prediction], image: int, target: Target) -> Tensor:
        """Return the cost of every pair of an image in every layer, (L, Q, N)."""
        classes = torch.stack([x.class_logits[image] for x in predictions])
        cost = -self.class_weight * at_least_float32(classes).softmax(-1)[..., target.labels]
        losses = self.where.pairwise(self.mask_losses, predictions, image, target)
        for weight, loss in zip(self.weights, losses, strict=True):
            cost += weight * loss
        return cost


class FixedMatcher:
    """Assigns the segment of class i to query i, in every layer; needs no cost.

    The query of a class that an image lacks gets no segment.

    Attributes:
        queries_are_classes: a query stands for a class, so that it is of no use for other classes.

    Args:
        num_classes: K.
        num_queries: Q, which has to be K.

    Raises:
        UserError: Q is not K.
    """

    queries_are_classes = True

    def __init__(self, *, num_classes: int, num_queries: int) -> None:
        if num_queries != num_classes:
            raise UserError(
                f"fixed matching (MODEL.MASK_FORMER.MATCHER) has one query for each class, but "
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {num_queries} and "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}; set both to the same number"
            )

    @torch.no_grad()
    def __call__(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Matching:
        """Match every layer of every image; see `HungarianMatcher`.

        Raises:
            NonFinitePredictions: a prediction is NaN or infinite.
            UserError: an image has several segments of one class.
        """
        finite = _finite_images(predictions)
        host = torch.cat([finite, *(target.labels for target in targets)]).tolist()
        _check_finite(host[: len(targets)])

        rows = []
        offset = 0
        for image, target in enumerate(targets):
            labels = host[len(targets) + offset :][: len(target.labels)]
            if len(set(labels)) < len(labels):
                twice = sorted({label for label in labels if labels.count(label) > 1})
                raise UserError(
                    f"image {image} of the batch has several segments of the classes {twice}, but "
                    "fixed matching has one query for each class; set INPUT.DATASET_MAPPER_NAME "
                    "to mask_former_semantic, or MODEL.MASK_FORMER.MATCHER to hungarian"
                )
            for layer in range(len(predictions)):
                rows += [(layer, image, label, offset + i) for i, label in enumerate(labels)]
            offset += len(labels)
        return _matching(rows, predictions)


def _matching(rows: list[tuple[int, int, int, int]], predictions: Sequence[Prediction]) -> Matching:
    """From (layer, image, query, segment) in any order."""
    columns = torch.tensor(sorted(rows), dtype=torch.int64).reshape(-1, 4).T
    return Matching(*to_device(columns, predictions[0].class_logits.device))


def _finite_images(predictions: Sequence[Prediction]) -> Tensor:
    """Whether all is finite that is predicted for an image, bool (B,).

    A sum is finite unless a term is not (16 bits cannot overflow float32 here).
    """
    parts = [features for features, _ in with_shared_features(predictions)]
    parts += [x.class_logits for x in predictions]
    parts += [x.mask_embeddings for x in predictions if x.mask_embeddings is not None]
    totals = [part.sum(tuple(range(1, part.dim())), dtype=torch.float32) for part in parts]
    return torch.stack(totals).isfinite().all(0)


def _check_finite(finite: Iterable[float]) -> None:
    if bad := [image for image, ok in enumerate(finite) if not ok]:
        raise NonFinitePredictions(bad)
