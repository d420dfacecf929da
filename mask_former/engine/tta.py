"""Test-time augmentation: one result from several scales of an image, each also mirrored.

What is averaged, and why:

* Semantic scores, as in the paper. Every view scores each class at each pixel of the result, so
  that the scores can be added as they are.
* For panoptic segmentation and instances the class logits and the mask logits of the queries; they
  are merged once, at the end. Merged results could not be averaged: a segment of one view has no
  counterpart in another. A mean of logits is a logit again, so that all thresholds keep their
  meaning. `merge_views.py` says which queries are averaged, and how.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mask_former.data.reading import read_image
from mask_former.data.transforms import InferenceResize
from mask_former.engine.merge_views import Mean, QueryMean
from mask_former.engine.sliding_window import semantic_scores, with_sliding_window
from mask_former.errors import UserError
from mask_former.inference.resize import Sizes, scale_masks
from mask_former.meta_arch import MaskFormer, finite_logits, result_sizes


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` as one that takes and returns the same, with the augmentation of `cfg.TEST.AUG`, and
    in every view the windows of `cfg.TEST.WINDOW`.

    Raises:
        UserError: probabilities are to be averaged, which the scores of a `MaskFormer` are already;
            see also `with_sliding_window`.
    """
    model = getattr(model, "module", model)  # without DistributedDataParallel
    if isinstance(model, MaskFormer) and cfg.TEST.AUG.PROBABILITIES:
        raise UserError(
            "TEST.AUG.PROBABILITIES is for models whose scores are logits; those of a MaskFormer "
            "are sums of probabilities: set it to False."
        )
    model = with_sliding_window(cfg, model)
    wrapper = MaskFormerWithTTA if isinstance(model, MaskFormer) else SemanticSegmentorWithTTA
    return wrapper(cfg, model)


class SemanticSegmentorWithTTA(nn.Module):
    """Averages the semantic scores of a model, any that returns `sem_seg`, over views of an image.

    Views are made and segmented one by one; there is memory for one of them and for the sum.

    `SemanticSegmentorWithTTA(cfg, model)` reads TEST.AUG.{MIN_SIZES, MAX_SIZE, FLIP, PROBABILITIES}
    and INPUT.{FORMAT, EXIF_ORIENTATION}.

    Args:
        model: the model; it is put into eval mode.
        min_sizes: pixels of the shorter side, one for each scale.
        max_size: pixels that the longer side may have.
        flip: mirror the image, too, at every scale.
        image_format: channel order that the model expects, "RGB" or "BGR".
        exif: whether the orientation of EXIF is applied to images that are read.
        probabilities: average the softmax of each view's scores, as Segmenter does, instead of the
            scores.

    Raises:
        UserError: there is no scale.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool = True,
        image_format: str = "RGB",
        exif: bool = True,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        if not min_sizes:
            raise UserError("TEST.AUG.MIN_SIZES is empty: name at least one size to test at")
        self.model = model
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format
        self.exif = exif
        self.probabilities = probabilities
        self.eval()

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "image_format": cfg.INPUT.FORMAT,
            "exif": cfg.INPUT.EXIF_ORIENTATION,
            "probabilities": cfg.TEST.AUG.PROBABILITIES,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Segment images.

        Args:
            batched_inputs: one dict an image, with
                * `image`: (3, h, w), 0..255, any dtype; or, without it, `file_name`;
                * `height`, `width`: size of the result; the image's own by default.

        Returns:
            what the model returns, as far as it is averaged.

        Raises:
            FileNotFoundError, UserError: there is no image, or a broken one; the model returns
                nothing that is averaged.
        """
        results = []
        for x in batched_inputs:
            image = self._image(x)
            size = {"height": image.shape[0], "width": image.shape[1]}
            named = {key: x[key] for key in ("file_name", *size) if key in x}
            results.append(self.segment(image, size | named))
        return results

    def segment(self, image: np.ndarray, x: dict[str, Any]) -> dict[str, Any]:
        """Segment one image, (h, w, 3).

        Args:
            image: at its own size.
            x: of its input `height` and `width` of the result and, for error messages, `file_name`.
        """
        scores = Mean()
        for scale in self.scales(image):
            for view in scale:
                scores.add(self._scores(view, x))
        labels = getattr(self.model, "semantic_labels", False)
        return {"sem_seg": scores.value.argmax(0) if labels else scores.value}

    def _scores(self, view: "View", x: dict[str, Any]) -> Tensor:
        (scores,) = semantic_scores(self.model, [view.input(x)])
        return view.restore(scores.softmax(0) if self.probabilities else scores)

    def scales(self, image: np.ndarray) -> Iterator[list["View"]]:
        """The views of an image, (h, w, 3), at one scale after the other."""
        for min_size in self.min_sizes:
            resize = InferenceResize([min_size], self.max_size, "choice").get_transform(image)
            resized = resize.apply_image(image)
            resized = torch.from_numpy(resized.transpose(2, 0, 1).copy())
            yield [View(resized, flipped) for flipped in ((False, True) if self.flip else (False,))]

    def _image(self, x: dict[str, Any]) -> np.ndarray:
        if "image" in x:
            image = x["image"] if x["image"].dtype == torch.uint8 else x["image"].float()
            return image.permute(1, 2, 0).cpu().numpy()
        if "file_name" in x:
            return read_image(x["file_name"], self.image_format, exif=self.exif)
        raise UserError(f"an input has to have 'image' or 'file_name', this has {sorted(x)}")


class View(NamedTuple):
    """An image, (3, h, w), at one scale, as it is or mirrored."""

    image: Tensor
    flipped: bool

    def input(self, x: dict[str, Any]) -> dict[str, Any]:
        """The input `x` with the view instead of its image."""
        return {**x, "image": self.restore(self.image)}

    def restore(self, result: Tensor) -> Tensor:
        """Mirror (..., H, W) if the view is mirrored."""
        return result.flip(-1) if self.flipped else result


class MaskFormerWithTTA(SemanticSegmentorWithTTA):
    """Averages what a `MaskFormer` predicts over views of an image, for all outputs it has on.

    The top of this file says what is averaged. Panoptic segmentation and instances take memory for
    the masks of all queries at the size of the result, those of one view and the sum.
    """

    def segment(self, image: np.ndarray, x: dict[str, Any]) -> dict[str, Any]:
        scores, queries = Mean(), QueryMean()
        for scale in self.scales(image):
            for view in scale:
                self._add(view, x, scores, queries)
            queries.end_scale()
        inference, result, size = self.model.inference, {}, (x["height"], x["width"])
        whole = Sizes(size, size, size)
        if inference.semantic_on:
            labels = inference.semantic_labels
            result["sem_seg"] = scores.value.argmax(0) if labels else scores.value
        if inference.panoptic_on:
            result["panoptic_seg"] = inference.panoptic(*queries.value, whole)
        if inference.instance_on:
            result["instances"] = inference.instances(*queries.value, whole)
        return result

    def _add(self, view: "View", x: dict[str, Any], scores: Mean, queries: QueryMean) -> None:
        model, inputs = self.model, [view.input(x)]
        images = model.preprocess(inputs)
        prediction = model.predict(images.tensor)[-1]
        class_logits, mask_logits = (logits[0] for logits in finite_logits(prediction, inputs))
        sizes = result_sizes(images, inputs)[0]
        inference = model.inference
        if inference.semantic_on:
            scores.add(view.restore(inference.semantic(class_logits, mask_logits, sizes)))
        if inference.panoptic_on or inference.instance_on:
            masks = scale_masks(mask_logits, sizes)
            queries.add(class_logits, view.restore(masks))
