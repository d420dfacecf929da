"""The training loss (paper, equation 1 and section 3.2), of all decoder layers at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mask_former.errors import UserError, check_choice
from mask_former.losses.dense import ALL_PIXELS, AllPixels
from mask_former.losses.mask import (
    DEFAULT_LOSSES,
    MASK_LOSSES,
    DiceLoss,
    WeightedLoss,
    compile_losses,
    paired_losses,
)
from mask_former.losses.points import PointSampling
from mask_former.matcher import FixedMatcher, HungarianMatcher
from mask_former.structures import (
    Matching,
    Prediction,
    Target,
    at_least_float32,
    with_shared_features,
)

Average = Callable[[Tensor], Tensor]


class Matcher(Protocol):
    """Assigns the segments of a batch to queries; see `mask_former.matcher`."""

    def __call__(
        self, predictions: Sequence[Prediction], targets: Sequence[Target]
    ) -> Matching: ...


class SetCriterion(nn.Module):
    """Cross entropy of the classes, and losses of the masks, for every decoder layer.

    Every layer has its own matching. A query without a segment learns the class "no object"; its
    mask has no loss, nor have pixels that are not valid. Mask losses are summed and divided by the
    number of segments of the batch, at least 1, and the cross entropy by the sum of its weights.
    Both divisors are averages over the processes, so that any number of processes trains like one;
    and where a batch comes in parts they are those of the whole batch, so that the losses of the
    parts add up to that of the batch (see `normalize_by_labels`).

    Args:
        num_classes: K, without "no object".
        matcher: assigns segments to queries.
        mask_losses: what masks learn by, with names and weights; the matcher's.
        class_weight: weight of the cross entropy, `loss_ce`.
        no_object_weight: weight of "no object" in the cross entropy, relative to a class.
        class_weights: weights of the K classes in the cross entropy; None: 1 each.
        where: all pixels, or points, at which masks learn.
        compiled: compile what is computed for every pixel, when it first runs.
    """

    empty_weight: Tensor

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        matcher: Matcher,
        mask_losses: Sequence[WeightedLoss] = DEFAULT_LOSSES,
        class_weight: float = 1.0,
        no_object_weight: float = 0.1,
        class_weights: Sequence[float] | None = None,
        where: AllPixels | PointSampling = ALL_PIXELS,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.where = where
        # On AMD Zen 5 softplus takes ten times as long before log1p has read a constant, as for -0.
        torch.log1p(torch.tensor(-0.0, dtype=torch.float32, device="cpu"))
        losses = [loss for _, _, loss in mask_losses]
        self.paired_losses = [partial(paired_losses, losses)]
        if compiled:  # apart: compiled code lets go of what a second backward pass would need
            form = compile_losses(paired_losses)
            self.paired_losses = [partial(form, [loss]) for loss in losses]
        self.weights = {"loss_ce": class_weight} | {name: w for name, w, _ in mask_losses}
        weights = torch.tensor([*(class_weights or [1.0] * num_classes), no_object_weight])
        self.register_buffer("empty_weight", weights, persistent=False)
        self.normalize_by_labels(None)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys = cfg.MODEL.MASK_FORMER
        shared = {
            "mask_losses": _mask_losses(cfg),
            "class_weight": keys.CLASS_WEIGHT,
            "where": _where(cfg),
            "compiled": cfg.MODEL.COMPILE,
        }
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "matcher": _build_matcher(cfg, shared),
            "no_object_weight": keys.NO_OBJECT_WEIGHT,
            "class_weights": class_weights(cfg),
            **shared,
        }

    def normalize_by_labels(
        self, labels: Sequence[Tensor] | None, average: Average | None = None
    ) -> None:
        """Divide by what a whole batch holds, of which the targets are a part.

        Args:
            labels: the classes of the segments of each image of the batch, int64 (N,); None: the
                targets are a batch.
            average: what takes the mean of a tensor over the processes; None:
                `average_over_processes`.
        """
        self._labels = labels
        self._average = average

    def forward(
        self, predictions: Sequence[Prediction], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses, also under mixed precision at least in float32.

        Args:
            predictions: of L layers, the final one last.
            targets: of the B images, padded to one size.

        Returns:
            scalars `loss_ce`, `loss_mask`, `loss_dice` (or whatever the names of the mask losses)
            of the final layer, and the same with `_0` ... `_{L-2}` appended of the earlier ones.
            Their sum is the training loss.

        Raises:
            NonFinitePredictions: a prediction is NaN or infinite.
        """
        with torch.autocast(predictions[0].class_logits.device.type, enabled=False):
            matching = self.matcher(predictions, targets)
            losses = {
                "loss_ce": self.class_loss(predictions, targets, matching),
                **self.mask_losses(predictions, targets, matching),
            }
            segments, weight = self.divisors(targets, predictions[0].class_logits.shape[1])
        suffixes = [f"_{i}" for i in range(len(predictions) - 1)] + [""]
        return {
            name + suffix: self.weights[name] * value / (weight if name == "loss_ce" else segments)
            for name, values in losses.items()
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }

    def divisors(self, targets: Sequence[Target], num_queries: int) -> tuple[Tensor, Tensor]:
        """What the mask losses and the cross entropy are divided by.

        They follow from the ground truth alone: number of segments, at least 1; sum of the weights
        of the classes that the queries learn, or 1 where it is 0. Segments without a query (more
        than there are queries) weigh what the others of their image do on average.
        """
        labels = [t.labels for t in targets] if self._labels is None else self._labels
        counts = [len(x) for x in labels]
        matched = [min(n, num_queries) for n in counts]
        weights = self.empty_weight[torch.cat(labels)]
        if matched != counts:
            parts = zip(weights.split(counts), counts, matched, strict=True)
            weights = torch.cat([part * (m / max(n, 1)) for part, n, m in parts])
        no_object = (len(labels) * num_queries - sum(matched)) * self.empty_weight[-1]
        # Filled on the device: a copy from here would have to wait for it.
        count = torch.full((), float(sum(counts)), device=weights.device)
        average = self._average or average_over_processes
        count, weight = average(torch.stack([count, weights.sum() + no_object]))
        return count.clamp(min=1), weight.where(weight > 0, 1)

    def class_loss(
        self, predictions: Sequence[Prediction], targets: Sequence[Target], matching: Matching
    ) -> Tensor:
        """Weighted sum of the cross entropy over all queries, (L,)."""
        logits = torch.stack([at_least_float32(p.class_logits) for p in predictions])
        labels = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        segment_labels = torch.cat([target.labels for target in targets])
        labels[matching.layer, matching.image, matching.query] = segment_labels[matching.segment]
        log_p = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        return -(self.empty_weight[labels] * log_p).sum((1, 2))

    def mask_losses(
        self, predictions: Sequence[Prediction], targets: Sequence[Target], matching: Matching
    ) -> dict[str, Tensor]:
        """Sum of each of the mask losses over the matched masks, (L,)."""
        masks = at_least_float32(matched_masks(predictions, targets, matching))
        losses = self.where.paired(self.paired_losses, masks, targets, matching)
        totals = losses.view(len(losses), len(predictions), -1).sum(2)
        return dict(zip(list(self.weights)[1:], totals, strict=True))


def matched_masks(
    predictions: Sequence[Prediction], targets: Sequence[Target], matching: Matching
) -> Tensor:
    """Mask logits of the matched queries, (M, h, w), in the order of `matching`.

    Only these are multiplied out: most queries have no segment, and a gradient of zeros for all
    their masks would take longer.
    """
    image, query = (x.view(len(predictions), -1) for x in (matching.image, matching.query))
    # Every layer has the rows of image 0 first; how many, is known without asking the device.
    num_queries = predictions[0].class_logits.shape[1]
    rows = [min(len(target.labels), num_queries) for target in targets]
    masks, first = [], 0
    for features, layers in with_shared_features(predictions):
        index = slice(first, first + len(layers))
        first += len(layers)
        if layers[0].mask_embeddings is None:
            masks += [features[i, q] for i, q in zip(image[index], query[index], strict=True)]
            continue
        # One product an image for all layers whose per-pixel embeddings are the same.
        embeddings = torch.stack([prediction.mask_embeddings for prediction in layers])
        layer = torch.arange(len(layers), device=image.device)[:, None]
        parts = embeddings[layer, image[index], query[index]].split(rows, dim=1)
        products = [e @ f for e, f in zip(parts, features.flatten(2), strict=True)]
        masks.append(torch.cat(products, 1).flatten(0, 1).unflatten(-1, features.shape[-2:]))
    return torch.cat(masks)


def average_over_processes(value: Tensor) -> Tensor:
    """Mean of `value` over the processes of a distributed training; changes it in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def class_weights(cfg: CfgNode) -> list[float] | None:
    """MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS, one for each class; None: all classes weigh the same.

    Raises:
        UserError: their number is not that of the classes.
    """
    weights, classes = cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if weights and len(weights) != classes:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS has {len(weights)} weights, but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}: there is one for each class, in the "
            "order of the data set's classes."
        )
    return [float(weight) for weight in weights] or None


def _build_matcher(cfg: CfgNode, shared: dict[str, Any]) -> Matcher:
    keys = cfg.MODEL.MASK_FORMER
    if keys.MATCHER == "hungarian":
        return HungarianMatcher(**shared)
    if keys.MATCHER == "fixed":
        return FixedMatcher(
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, num_queries=keys.NUM_OBJECT_QUERIES
        )
    raise UserError(
        f"MODEL.MASK_FORMER.MATCHER is {keys.MATCHER!r}; it must be 'hungarian' or 'fixed'"
    )


def _mask_losses(cfg: CfgNode) -> list[WeightedLoss]:
    keys = cfg.MODEL.MASK_FORMER
    check_choice("MODEL.MASK_FORMER.MASK_LOSS", keys.MASK_LOSS, MASK_LOSSES)
    return [
        WeightedLoss("loss_mask", keys.MASK_WEIGHT, MASK_LOSSES[keys.MASK_LOSS]()),
        WeightedLoss("loss_dice", keys.DICE_WEIGHT, DiceLoss()),
    ]


def _where(cfg: CfgNode) -> AllPixels | PointSampling:
    keys = cfg.MODEL.MASK_FORMER
    if keys.TRAIN_NUM_POINTS == 0:
        return ALL_PIXELS
    return PointSampling(keys.TRAIN_NUM_POINTS, keys.OVERSAMPLE_RATIO, keys.IMPORTANCE_SAMPLE_RATIO)
