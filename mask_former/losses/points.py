"""Masks and segments compared at random points: an approximation that is off by default.

"PointRend" (section 3.1) and "Mask2Former" (section 3.3) train with few points of a mask, most of
them where the mask is least certain. Points are pairs (x, y) in [0, 1] of the padded image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.errors import UserError
from mask_former.layers.deformable_attention import sample_map
from mask_former.losses.dense import (
    PairedLosses,
    PairwiseLosses,
    Sample,
    chunk_rows,
    compare_in_chunks,
    in_chunks,
)
from mask_former.structures import Matching, Prediction, Target, at_least_float32


@dataclass(frozen=True)
class PointSampling:
    """Random points: to match, the same for all masks of an image; to learn, each mask's own.

    Attributes:
        num_points: P, of each mask.
        oversample_ratio: the uncertain points are chosen among this many times P, >= 1.
        importance_sample_ratio: share of the points that is chosen for uncertainty, in [0, 1];
            the others are uniform.

    Raises:
        UserError: a number is out of its range.
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

    def pairwise(
        self,
        losses: PairwiseLosses,
        predictions: Sequence[Prediction],
        image: int,
        target: Target,
    ) -> Tensor:
        """Compare every mask of an image with every segment; see `AllPixels.pairwise`."""
        points = self.uniform(target.masks.device)[None]
        index = torch.arange(len(target.masks), device=points.device)
        segments = framed(target.masks)
        segments = sample_regions(segments, points.expand(len(index), -1, -1), index)
        valid = None
        if target.valid is not None:
            valid = pixels_at(target.valid[None], points, index.new_zeros(1))[0]

        def sample(maps: Tensor) -> Tensor:
            return sample_channels(maps, points[0])

        return compare_in_chunks(losses, predictions, image, sample, segments, valid)

    def paired(
        self,
        losses: Sequence[PairedLosses],
        masks: Tensor,
        targets: Sequence[Target],
        matching: Matching,
    ) -> Tensor:
        """Compare each matched mask with its segment; see `AllPixels.paired`."""
        segments = framed(torch.cat([target.masks for target in targets]))
        valid = None
        if targets[0].valid is not None:
            valid = torch.stack([target.valid for target in targets])

        def sample(masks: Tensor, points: Tensor, segment: Tensor, image: Tensor) -> Sample:
            logits = sample_logits(masks[:, None], points)[:, 0]
            inside = sample_regions(segments, points, segment).to(logits)
            return logits, inside, None if valid is None else pixels_at(valid, points, image)

        inputs = (masks, self.uncertain(masks), matching.segment, matching.image)
        return in_chunks(losses, sample, *inputs, pixels=self.num_points)

    def uniform(self, device: torch.device) -> Tensor:
        """The same points for all masks of an image, (P, 2)."""
        return torch.rand(self.num_points, 2, device=device)

    @torch.no_grad()
    def uncertain(self, masks: Tensor) -> Tensor:
        """Points of each of the masks (M, h, w), (M, P, 2), mostly where its logit is near 0."""
        chosen = round(self.importance_sample_ratio * self.num_points)
        count = max(round(self.oversample_ratio * self.num_points), chosen)
        rows = chunk_rows(masks, count)
        return torch.cat([self._uncertain(part, chosen, count) for part in masks.split(rows)])

    def _uncertain(self, masks: Tensor, chosen: int, count: int) -> Tensor:
        candidates = torch.rand(len(masks), count, 2, device=masks.device)
        certainty = sample_logits(masks[:, None], candidates)[:, 0].abs_()
        index = certainty.topk(chosen, dim=1, largest=False, sorted=False).indices
        uniform = torch.rand(len(masks), self.num_points - chosen, 2, device=masks.device)
        return torch.cat([candidates.gather(1, index[..., None].expand(-1, -1, 2)), uniform], 1)


def sample_logits(masks: Tensor, points: Tensor) -> Tensor:
    """G groups of masks, (G, C, h, w), at the points of each group, (G, P, 2), by bilinear
    interpolation, with zeros around; float32 or float64 (G, C, P)."""
    masks = at_least_float32(masks)
    grid = (2 * points[:, :, None] - 1).to(masks)
    return F.grid_sample(masks, grid, mode="bilinear", align_corners=False)[..., 0]


def sample_channels(maps: Tensor, points: Tensor) -> Tensor:
    """All of the maps (C, h, w) at the same points (P, 2), like `sample_logits`; (C, P).

    All channels of a pixel are read at once, as deformable attention does.
    """
    maps = at_least_float32(maps)
    height, width = maps.shape[-2:]
    positions = torch.stack((points[:, 0] * width, points[:, 1] * height), -1) - 0.5
    weights = maps.new_ones(1, len(points), 1)
    return sample_map(maps.permute(1, 2, 0)[None], positions[None, :, None].to(maps), weights)[0].T


def framed(regions: Tensor) -> Tensor:
    """Bool (N, H, W) as bytes in a frame of zeros, (N, H + 2, W + 2)."""
    return F.pad(regions.view(torch.uint8), (1, 1, 1, 1))


def sample_regions(regions: Tensor, points: Tensor, index: Tensor) -> Tensor:
    """Regions `index` (M,) of the `framed` ones, (N, H + 2, W + 2), at points (M, P, 2) in [0, 1]
    of what the frame surrounds, by bilinear interpolation; (M, P) in [0, 1].

    Reads the four pixels around each point, so that the regions never exist as numbers.
    """
    height, width = regions.shape[-2:]
    x, y = points[..., 0] * (width - 2) - 0.5, points[..., 1] * (height - 2) - 0.5
    left, top = x.floor(), y.floor()
    across, down = x - left, y - top
    row = index[:, None] * height + top.long() + 1
    upper_left = (row * width + left.long() + 1).flatten()
    pixels = regions.flatten()

    def at(offset: int) -> Tensor:
        return pixels.index_select(0, upper_left + offset).view(x.shape).to(x)

    above, below = (at(i).lerp(at(i + 1), across) for i in (0, width))
    return above.lerp(below, down)


def pixels_at(regions: Tensor, points: Tensor, index: Tensor) -> Tensor:
    """Bool `regions[index]`, for (N, H, W) and (M,), in the pixels where points (M, P, 2) lie."""
    height, width = regions.shape[-2:]
    i = (points[..., 1] * height).long().clamp(max=height - 1)
    j = (points[..., 0] * width).long().clamp(max=width - 1)
    return regions[index[:, None], i, j]
