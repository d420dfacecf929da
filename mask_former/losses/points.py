"""Mask losses at random points instead of all pixels: an approximation that is off by default.

"PointRend" (section 3.1) and "Mask2Former" (section 3.3) train with few points of a mask, most of
them where the mask is least certain. Points are pairs (x, y) in [0, 1] of the padded image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.errors import UserError
from mask_former.losses.mask import dice_loss, sigmoid_focal_loss


@dataclass(frozen=True)
class PointSampling:
    """How the points of a mask are drawn.

    Attributes:
        num_points: P, of each mask.
        oversample_ratio: the uncertain points are chosen among this many times P, >= 1.
        importance_sample_ratio: share of the points that is chosen for uncertainty, in [0, 1];
            the others are uniform.

    Raises:
        ValueError: a number is out of its range.
    """

    num_points: int
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75

    def __post_init__(self) -> None:
        if self.num_points < 1 or self.oversample_ratio < 1:
            raise UserError(
                f"MODEL.MASK_FORMER.TRAIN_NUM_POINTS is {self.num_points} and OVERSAMPLE_RATIO "
                f"{self.oversample_ratio}; both must be at least 1"
            )
        if not 0 <= self.importance_sample_ratio <= 1:
            raise UserError(
                "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO is "
                f"{self.importance_sample_ratio}; it must be from 0 to 1"
            )

    def uniform(self, masks: Tensor) -> Tensor:
        """The same points for all masks of an image, (P, 2)."""
        return torch.rand(self.num_points, 2, device=masks.device)

    @torch.no_grad()
    def uncertain(self, masks: Tensor) -> Tensor:
        """Points of each of the masks (M, h, w), (M, P, 2), mostly where its logit is near 0."""
        chosen = round(self.importance_sample_ratio * self.num_points)
        count = max(round(self.oversample_ratio * self.num_points), chosen)
        candidates = torch.rand(len(masks), count, 2, device=masks.device)
        certainty = sample_logits(masks[:, None], candidates)[:, 0].abs_()
        index = certainty.topk(chosen, dim=1, largest=False, sorted=False).indices
        uniform = torch.rand(len(masks), self.num_points - chosen, 2, device=masks.device)
        return torch.cat([candidates.gather(1, index[..., None].expand(-1, -1, 2)), uniform], 1)


def point_mask_losses(
    logits: Tensor,
    targets: Tensor,
    segment: Tensor,
    points: Tensor,
    *,
    valid: Tensor | None = None,
    image: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each mask against its segment at its points.

    With the centres of all pixels as points it equals `matched_mask_losses`, which see for the
    other arguments.

    Args:
        points: (M, P, 2).

    Returns:
        focal and dice loss, (M,) each.
    """
    x = sample_logits(logits[:, None], points)[:, 0]
    row, column = pixels_at(points, targets)
    t = targets[segment[:, None], row, column]
    v = None if valid is None else valid[image[:, None], row, column]
    return sigmoid_focal_loss(x, t, valid=v, alpha=alpha, gamma=gamma), dice_loss(x, t, valid=v)


def sample_logits(masks: Tensor, points: Tensor) -> Tensor:
    """G groups of masks, (G, C, h, w), at the points of each group, (G, P, 2), by bilinear
    interpolation; float32 or float64 (G, C, P)."""
    masks = masks if masks.dtype == torch.float64 else masks.float()
    grid = (2 * points[:, :, None] - 1).to(masks)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
    return F.grid_sample(masks, grid, **options)[..., 0]


def pixels_at(points: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column, of masks (N, H, W), of the pixels in which points (..., 2) lie."""
    height, width = masks.shape[-2:]
    x, y = points.unbind(-1)
    row, column = (y * height).long(), (x * width).long()
    return row.clamp(max=height - 1), column.clamp(max=width - 1)
