"""The paper's training loss (equation 1, section 3.2) as one writes it down with PyTorch.

Layer after layer, and for the matching image after image; autograd keeps what it needs.
"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from mask_former.structures import Prediction, Target

ALPHA, GAMMA = 0.25, 2.0
MASK_WEIGHT, NO_OBJECT_WEIGHT = 20.0, 0.1


def plain_losses(
    predictions: Sequence[Prediction], targets: Sequence[Target]
) -> list[dict[str, Tensor]]:
    """Weighted losses of each decoder layer."""
    return [layer_losses(p, targets, plain_matching(p, targets)) for p in predictions]


@torch.no_grad()
def plain_matching(
    prediction: Prediction, targets: Sequence[Target]
) -> list[tuple[Tensor, Tensor]]:
    """Queries and segments that belong together, of each image."""
    pairs = []
    for class_logits, masks, target in zip(
        prediction.class_logits, prediction.mask_logits, targets, strict=True
    ):
        segments = F.interpolate(target.masks[:, None].float(), size=masks.shape[-2:])
        cost = -class_logits.softmax(-1)[:, target.labels]
        cost = cost + MASK_WEIGHT * focal_cost(masks.flatten(1), segments.flatten(1))
        cost = cost + dice_cost(masks.flatten(1), segments.flatten(1))
        queries, chosen = linear_sum_assignment(cost.cpu())
        pairs.append((torch.as_tensor(queries), torch.as_tensor(chosen)))
    return pairs


def focal_cost(x: Tensor, t: Tensor) -> Tensor:
    """(Q, P) and (N, P) -> (Q, N)."""
    p = x.sigmoid()
    positive = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
    negative = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none")
    positive = ALPHA * (1 - p) ** GAMMA * positive
    negative = (1 - ALPHA) * p**GAMMA * negative
    cost = torch.einsum("qp,np->qn", positive, t) + torch.einsum("qp,np->qn", negative, 1 - t)
    return cost / x.shape[1]


def dice_cost(x: Tensor, t: Tensor) -> Tensor:
    """(Q, P) and (N, P) -> (Q, N)."""
    p = x.sigmoid()
    overlap = 2 * torch.einsum("qp,np->qn", p, t)
    return 1 - (overlap + 1) / (p.sum(1)[:, None] + t.sum(1)[None, :] + 1)


def layer_losses(
    prediction: Prediction, targets: Sequence[Target], pairs: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Weighted losses of one layer."""
    logits = prediction.class_logits
    num_classes = logits.shape[-1] - 1
    labels = torch.full(logits.shape[:2], num_classes, device=logits.device)
    for image, (queries, chosen) in enumerate(pairs):
        labels[image, queries] = targets[image].labels[chosen]
    weight = torch.ones(num_classes + 1, device=logits.device)
    weight[-1] = NO_OBJECT_WEIGHT

    masks = [x[queries] for x, (queries, _) in zip(prediction.mask_logits, pairs, strict=True)]
    segments = [t.masks[chosen] for t, (_, chosen) in zip(targets, pairs, strict=True)]
    t = torch.cat(segments).float()
    x = F.interpolate(torch.cat(masks)[:, None], size=t.shape[-2:], mode="bilinear")
    x, t = x.flatten(1), t.flatten(1)
    num_masks = max(len(t), 1)
    return {
        "loss_ce": F.cross_entropy(logits.transpose(1, 2), labels, weight),
        "loss_mask": MASK_WEIGHT * focal_loss(x, t).sum() / num_masks,
        "loss_dice": dice_loss(x, t).sum() / num_masks,
    }


def focal_loss(x: Tensor, t: Tensor) -> Tensor:
    """(M, P) and (M, P) -> (M,)."""
    p = x.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    wrong = p * (1 - t) + (1 - p) * t
    return ((ALPHA * t + (1 - ALPHA) * (1 - t)) * wrong**GAMMA * cross_entropy).mean(1)


def dice_loss(x: Tensor, t: Tensor) -> Tensor:
    """(M, P) and (M, P) -> (M,)."""
    p = x.sigmoid()
    return 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
