"""Sliding windows around any model of semantic segmentation, where a config asks for them."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from mask_former.errors import UserError
from mask_former.inference.resize import Sizes, scale_masks
from mask_former.inference.sliding_window import (
    SlidingWindow,
    labels_of_scores,
    sliding_window_inference,
)
from mask_former.meta_arch import check_finite_predictions


def window_of(cfg: CfgNode) -> SlidingWindow | None:
    """The windows of TEST.WINDOW; None without TEST.WINDOW.SIZE.

    Raises:
        UserError: the numbers make no sense, or more than semantic segmentation is switched on.
    """
    keys, tasks = cfg.TEST.WINDOW, cfg.MODEL.MASK_FORMER.TEST
    size, stride, batch_size = keys.SIZE, keys.STRIDE, keys.BATCH_SIZE
    if not size:
        return None
    if tasks.PANOPTIC_ON or tasks.INSTANCE_ON:
        raise UserError(
            f"TEST.WINDOW.SIZE is {size}, but only semantic scores of windows can be averaged: set "
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON and INSTANCE_ON to False, or TEST.WINDOW.SIZE to 0."
        )
    return SlidingWindow(size, stride, batch_size)


def with_sliding_window(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` as one that takes and returns the same, and looks at TEST.WINDOW; without windows in
    `cfg`, or with windows around it already, `model` itself.

    Raises:
        UserError: see `window_of`.
    """
    window = window_of(cfg)
    has_windows = any(isinstance(module, SlidingWindowSegmentor) for module in model.modules())
    if window is None or has_windows:
        return model
    # Without DistributedDataParallel.
    return SlidingWindowSegmentor(getattr(model, "module", model), window)


class SlidingWindowSegmentor(nn.Module):
    """Averages the semantic scores of a model over windows of an image.

    There is memory for the scores of one batch of windows, and for those of one image.

    Args:
        model: a Detectron2 model that returns `sem_seg`; `MaskFormer` may return label maps.
        window: size and places of the windows.
    """

    def __init__(self, model: nn.Module, window: SlidingWindow) -> None:
        super().__init__()
        self.model = model
        self.window = window
        # An evaluation puts the mode back that it found.
        self.training = model.training

    @property
    def semantic_labels(self) -> bool:
        """Whether label maps are returned instead of scores, as of `Inference`."""
        return getattr(getattr(self.model, "inference", None), "semantic_labels", False)

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Segment images.

        Args:
            batched_inputs: one dict an image, with `image`, (3, h, w), 0..255, and `height` and
                `width` of the result; the image's own by default.

        Returns:
            one dict an image, with `sem_seg`: scores (K, height, width), or labels (height, width).
        """
        if not self.semantic_labels:
            return [{"sem_seg": scores} for scores in self.semantic_scores(batched_inputs)]
        return [
            {"sem_seg": labels_of_scores(self._mean(x), _result_size(x))} for x in batched_inputs
        ]

    def semantic_scores(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Tensor]:
        """The scores of each image, (K, height, width), whatever `forward` returns."""
        return [_scale(self._mean(x), _result_size(x)) for x in batched_inputs]

    def _mean(self, x: dict[str, Any]) -> Tensor:
        """Scores at the size of the image, or of what it is enlarged to, (K, h, w)."""

        named = {key: x[key] for key in ("file_name",) if key in x}  # for error messages

        def score(windows: Tensor) -> list[Tensor]:
            return semantic_scores(self.model, [{"image": window} | named for window in windows])

        return sliding_window_inference(score, x["image"], self.window)


def semantic_scores(model: nn.Module, inputs: Sequence[dict[str, Any]]) -> list[Tensor]:
    """The scores of all classes for every image, (K, height, width).

    Args:
        model: has a method of this name, as models have that also return label maps; or returns
            scores as `sem_seg`.

    Raises:
        UserError: the model returns no scores.
        NonFiniteError: a score is NaN or infinite, of which the softmax may be neither.
    """
    if hasattr(model, "semantic_scores"):
        return model.semantic_scores(inputs)
    results, name = model(inputs), type(model).__name__
    if any("sem_seg" not in result for result in results):
        raise UserError(
            f"test-time augmentation and sliding windows average 'sem_seg', but this {name} "
            f"returns {sorted(results[0])}"
        )
    if any(result["sem_seg"].dim() != 3 for result in results):
        raise UserError(
            "test-time augmentation and sliding windows average the scores of classes, but this "
            f"{name} returns labels"
        )
    scores = [result["sem_seg"] for result in results]
    check_finite_predictions(inputs, scores)
    return scores


def _result_size(x: dict[str, Any]) -> tuple[int, int]:
    height, width = x["image"].shape[-2:]
    return x.get("height", height), x.get("width", width)


def _scale(scores: Tensor, size: tuple[int, int]) -> Tensor:
    own = tuple(scores.shape[-2:])
    return scores if own == size else scale_masks(scores, Sizes(own, own, size))
