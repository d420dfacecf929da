"""Bipartite matching of predictions and ground truth (paper, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask_former.losses import pairwise_dice_loss, pairwise_sigmoid_focal_loss
from mask_former.structures import Prediction, Target


class NonFiniteError(FloatingPointError):
    """A prediction is NaN or infinite; `images` are the indices of its images in the batch."""

    def __init__(self, images: list[int]) -> None:
        super().__init__(f"predictions are not finite for images {images} of the batch")
        self.images = images


@dataclass(frozen=True)
class Matching:
    """Which query is assigned which segment, for all layers and images of a step.

    All are int64 (M,) on the predictions' device, ordered by layer, image and query. Every layer
    has M / L of the rows.

    Attributes:
        layer: in [0, L).
        image: in [0, B).
        query: in [0, Q).
        segment: index among all segments of the batch, those of image 0 first.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    segment: Tensor


class HungarianMatcher:
    """Assigns every segment the query with which the total cost is least.

    The cost of a pair is `class_weight * (-p(class)) + mask_weight * focal + dice_weight * dice`,
    at the resolution of the predicted masks, with the segment sampled by nearest neighbour. If
    an image has more segments than there are queries, the segments that fit worst get none.

    Args:
        class_weight, mask_weight, dice_weight: weights of the three terms, >= 0.
    """

    def __init__(
        self, *, class_weight: float = 1.0, mask_weight: float = 20.0, dice_weight: float = 1.0
    ) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight

    @torch.no_grad()
    def __call__(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Matching:
        """Match every layer of every image, with one transfer to the host for all of them.

        Args:
            predictions: of L layers, for B images.
            targets: of the B images; an image may have no segment.

        Raises:
            NonFiniteError: a prediction is NaN or infinite.
        """
        device = predictions[0].class_logits.device
        finite = torch.stack([_is_finite(p) for p in predictions]).all(0)  # (B,)
        costs = [self.cost(predictions, i, target) for i, target in enumerate(targets)]
        flat = torch.cat([finite.float(), *(cost.flatten() for cost in costs)]).cpu().numpy()
        ok, *blocks = np.split(flat, np.cumsum([len(targets)] + [c.numel() for c in costs[:-1]]))
        if not ok.all():
            raise NonFiniteError(np.flatnonzero(ok == 0).tolist())

        rows = []
        offset = 0
        for image, (cost, block) in enumerate(zip(costs, blocks, strict=True)):
            for layer, matrix in enumerate(block.reshape(cost.shape)):
                for query, segment in zip(*linear_sum_assignment(matrix), strict=True):
                    rows.append((layer, image, query, offset + segment))
            offset += cost.shape[2]
        rows.sort()
        return Matching(*torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T.to(device))

    def cost(self, predictions: Sequence[Prediction], image: int, target: Target) -> Tensor:
        """Return the cost of every pair of one image in every layer, float32 (L, Q, N)."""
        masks = torch.stack([p.mask_logits[image] for p in predictions]).float()  # (L, Q, h, w)
        segments = F.interpolate(target.masks.view(torch.uint8)[:, None], size=masks.shape[-2:])
        masks, segments = masks.flatten(0, 1).flatten(1), segments.flatten(1)
        classes = torch.cat([p.class_logits[image] for p in predictions]).float().softmax(-1)
        cost = self.mask_weight * pairwise_sigmoid_focal_loss(masks, segments)
        cost += self.dice_weight * pairwise_dice_loss(masks, segments)
        cost -= self.class_weight * classes[:, target.labels]
        return cost.unflatten(0, (len(predictions), -1))


def _is_finite(prediction: Prediction) -> Tensor:
    """bool (B,); a sum is finite unless a term is not (float32 cannot overflow here)."""
    total = prediction.class_logits.float().sum((1, 2))
    return (total + prediction.mask_logits.sum((1, 2, 3), dtype=torch.float32)).isfinite()
