"""Which segmentations are made of a prediction, and how."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from mask_former.errors import UserError
from mask_former.inference import segment
from mask_former.inference.resize import Sizes


@dataclass(frozen=True)
class Inference:
    """From the predictions of one image to its segmentations.

    Attributes:
        semantic_on, instance_on, panoptic_on: what is returned, any combination.
        thing_classes: contiguous ids of the classes that are things; panoptic and instance
            inference need them.
        object_mask_threshold: least class score of a query in the panoptic merge.
        overlap_threshold: least visible share of a panoptic segment's own mask.
        void_below_half: pixels where the mask of their panoptic segment has a probability below
            0.5 are void, as in Mask2Former; else they belong to it, as in MaskFormer.
        resize_before_semantic: scale the masks to the requested size before the semantic scores
            are summed, instead of scaling the scores. Always so with `panoptic_on` or
            `instance_on`, as published.
        semantic_labels: return the class of each pixel instead of the scores of all classes,
            which takes less time and much less memory. Detectron2's evaluators want scores.
        max_instances: number of instances an image may have.
        top_of_all_classes: choose the best instances among all classes and keep those that are
            things, as in Mask2Former; else among the things.

    Raises:
        UserError: nothing is switched on.
    """

    semantic_on: bool = True
    instance_on: bool = False
    panoptic_on: bool = False
    thing_classes: Collection[int] = frozenset()
    object_mask_threshold: float = 0.0
    overlap_threshold: float = 0.0
    void_below_half: bool = False
    resize_before_semantic: bool = False
    semantic_labels: bool = False
    max_instances: int = 100
    top_of_all_classes: bool = False

    def __post_init__(self) -> None:
        if not (self.semantic_on or self.instance_on or self.panoptic_on):
            raise UserError(
                "inference would return nothing: switch on at least one of "
                "MODEL.MASK_FORMER.TEST.{SEMANTIC_ON, INSTANCE_ON, PANOPTIC_ON}"
            )

    def __call__(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> dict[str, Any]:
        """Segment an image.

        Args:
            class_logits: (Q, K+1), float32.
            mask_logits: (Q, h, w).
            sizes: that the masks are scaled to.

        Returns:
            as far as they are switched on
                * `sem_seg`: scores (K, height, width), or with `semantic_labels` classes, int64
                  (height, width);
                * `panoptic_seg`: see `panoptic_inference`;
                * `instances`: see `instance_inference`.
        """
        result: dict[str, Any] = {}
        if self.semantic_on:
            labels = self.semantic_labels
            result["sem_seg"] = self.semantic(class_logits, mask_logits, sizes, labels=labels)
        if self.panoptic_on:
            result["panoptic_seg"] = self.panoptic(class_logits, mask_logits, sizes)
        if self.instance_on:
            result["instances"] = self.instances(class_logits, mask_logits, sizes)
        return result

    def semantic(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes, *, labels: bool = False
    ) -> Tensor:
        """Semantic scores of an image, (K, height, width), or its classes, (height, width)."""
        infer = segment.semantic_labels if labels else segment.semantic_inference
        before = self.resize_before_semantic or self.panoptic_on or self.instance_on
        return infer(class_logits, mask_logits, sizes, scale_scores=not before)

    def panoptic(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Panoptic map and segments of an image; only confident masks are scaled up."""
        keep, scores, labels = segment.confident_queries(class_logits, self.object_mask_threshold)
        return segment.panoptic_inference(
            scores,
            labels,
            mask_logits[keep],
            sizes,
            thing_classes=self.thing_classes,
            overlap_threshold=self.overlap_threshold,
            void_below_half=self.void_below_half,
        )

    def instances(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Instances:
        """Instances of an image."""
        pairs = segment.top_instances(
            class_logits,
            thing_classes=self.thing_classes,
            top_k=self.max_instances,
            of_all_classes=self.top_of_all_classes,
        )
        return segment.instance_inference(*pairs, mask_logits, sizes)
