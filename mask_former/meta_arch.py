"""MaskFormer, the meta-architecture: the paper's figure 2 from an image to its segmentation."""

from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from mask_former import inference
from mask_former.backbone.checkpointing import checkpoint_blocks
from mask_former.criterion import Matcher, SetCriterion
from mask_former.data.label_map import LabelMapMasks
from mask_former.data.metadata import thing_classes
from mask_former.errors import UserError
from mask_former.fastest_order import use_fastest_order
from mask_former.inference.resize import Sizes
from mask_former.losses.points import PointSampling
from mask_former.matcher import FixedMatcher, HungarianMatcher, NonFiniteError
from mask_former.structures import Prediction, Target, to_device


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Mask classification for semantic, instance and panoptic segmentation.

    Args:
        backbone: Detectron2 backbone, (B, 3, H, W) -> {name: feature map}.
        sem_seg_head: features -> predictions of the decoder layers.
        criterion: predictions, targets -> weighted losses.
        pixel_mean, pixel_std: of the input's channels, in units of the image (0..255).
        size_divisibility: batches are padded to a multiple of this; 0 pads to the largest image.
        ignore_void: leave padded and unannotated pixels out of matching and mask losses, instead
            of counting them as background of every mask.
        thing_classes: contiguous ids of the classes that are things; panoptic and instance
            inference need them.
        semantic_on, instance_on, panoptic_on: what inference returns, any combination.
        object_mask_threshold: least class score of a query in the panoptic merge.
        overlap_threshold: least visible share of a panoptic segment's own mask.
        resize_before_semantic: scale the masks to the requested size before the semantic scores
            are summed, instead of scaling the scores. Always so when `panoptic_on`.
        semantic_labels: return the class of each pixel instead of the scores of all classes,
            which takes less time and much less memory. Detectron2's evaluators want scores.
        max_instances: number of instances an image may have.
        published_rounding: compute in the order of operations of the published models, not in the
            fastest one that equals it but for rounding.
        compiled: compile backbone and head when they first run; weights keep their names.

    Raises:
        ValueError: nothing is switched on for inference.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        pixel_mean: Collection[float],
        pixel_std: Collection[float],
        size_divisibility: int = 32,
        ignore_void: bool = False,
        thing_classes: Collection[int] = (),
        semantic_on: bool = True,
        instance_on: bool = False,
        panoptic_on: bool = False,
        object_mask_threshold: float = 0.0,
        overlap_threshold: float = 0.0,
        resize_before_semantic: bool = False,
        semantic_labels: bool = False,
        max_instances: int = 100,
        published_rounding: bool = True,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if not (semantic_on or instance_on or panoptic_on):
            raise UserError(
                "inference would return nothing: switch on at least one of "
                "MODEL.MASK_FORMER.TEST.{SEMANTIC_ON, INSTANCE_ON, PANOPTIC_ON}"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.size_divisibility = size_divisibility
        self.ignore_void = ignore_void
        self.thing_classes = frozenset(thing_classes)
        self.semantic_on = semantic_on
        self.instance_on = instance_on
        self.panoptic_on = panoptic_on
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.resize_before_semantic = resize_before_semantic or panoptic_on
        self.semantic_labels = semantic_labels
        self.max_instances = max_instances
        if not published_rounding:
            use_fastest_order(self)
        if compiled:
            self.backbone.compile()
            self.sem_seg_head.compile()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        if cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING or cfg.MODEL.SWIN.USE_CHECKPOINT:
            checkpoint_blocks(backbone)
        keys, test = cfg.MODEL.MASK_FORMER, cfg.MODEL.MASK_FORMER.TEST
        divisibility = keys.SIZE_DIVISIBILITY
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": SetCriterion(
                num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
                matcher=_matcher(cfg),
                mask_weight=keys.MASK_WEIGHT,
                dice_weight=keys.DICE_WEIGHT,
                no_object_weight=keys.NO_OBJECT_WEIGHT,
                points=_points(cfg),
                compiled=cfg.MODEL.COMPILE,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": backbone.size_divisibility if divisibility < 0 else divisibility,
            "ignore_void": keys.IGNORE_VOID,
            "thing_classes": thing_classes(cfg),
            "semantic_on": test.SEMANTIC_ON,
            "instance_on": test.INSTANCE_ON,
            "panoptic_on": test.PANOPTIC_ON,
            "object_mask_threshold": test.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": test.OVERLAP_THRESHOLD,
            "resize_before_semantic": test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
            "semantic_labels": test.SEMANTIC_LABELS,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "published_rounding": cfg.MODEL.PUBLISHED_ROUNDING,
            "compiled": cfg.MODEL.COMPILE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute the losses of a batch, or in eval mode segment its images.

        Args:
            batched_inputs: one dict an image, with
                * `image`: (3, H, W), 0..255, any dtype;
                * `instances` (training): `Instances` of the image's size with `gt_classes` (N,)
                  and `gt_masks`, `BitMasks` or bool (N, H, W);
                * `valid` (training, optional): the annotated pixels, bool (H, W); all by default.
                  Only looked at with `ignore_void`;
                * `height`, `width` (inference): size of the result; the image's own by default;
                * `file_name`: used in error messages.

        Returns:
            in training the weighted losses by name; otherwise one dict an image with
                * `sem_seg`: scores (K, height, width), or with `semantic_labels` classes, int64
                  (height, width);
                * `panoptic_seg`: see `inference.panoptic_inference`;
                * `instances`: see `inference.instance_inference`;
            as far as they are switched on.

        Raises:
            FloatingPointError: a prediction is NaN or infinite; names the images.
        """
        images = self.preprocess(batched_inputs)
        predictions = self.sem_seg_head(self.backbone(images.tensor))
        if not self.training:
            return self.postprocess(predictions[-1], images, batched_inputs)
        targets = self.prepare_targets(batched_inputs, images)
        try:
            return self.criterion(predictions, targets)
        except NonFiniteError as error:
            names = [batched_inputs[i].get("file_name", f"image {i}") for i in error.images]
            raise FloatingPointError(f"predictions are NaN or infinite for {names}") from error

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them to one size with zeros."""
        images = [to_device(x["image"], self.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.size_divisibility)

    def prepare_targets(
        self, batched_inputs: list[dict[str, Any]], images: ImageList
    ) -> list[Target]:
        """Move the ground truth to the device, its masks padded to the batch's size."""

        def padded(masks: Tensor) -> Tensor:
            size = (*masks.shape[:-2], *images.tensor.shape[-2:])
            result = torch.zeros(size, dtype=torch.bool, device=self.device)
            result[..., : masks.shape[-2], : masks.shape[-1]] = to_device(masks, self.device)
            return result

        targets = []
        for x, image_size in zip(batched_inputs, images.image_sizes, strict=True):
            labels = to_device(x["instances"].gt_classes, self.device)
            masks = x["instances"].gt_masks
            if isinstance(masks, LabelMapMasks):  # lighter to move than what is made of it
                masks = masks.to(self.device)
            masks = padded(getattr(masks, "tensor", masks))
            valid = None
            if self.ignore_void:
                valid = padded(x.get("valid", torch.ones(image_size, dtype=torch.bool)))
            targets.append(Target(labels, masks, valid))
        return targets

    def postprocess(
        self, prediction: Prediction, images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Segment the images one at a time, each at its requested size."""
        results = []
        for class_logits, mask_logits, sizes in zip(
            prediction.class_logits.float(),
            prediction.mask_logits,
            result_sizes(images, batched_inputs),
            strict=True,
        ):
            result = {}
            if self.semantic_on:
                result["sem_seg"] = self.semantic(
                    class_logits, mask_logits, sizes, labels=self.semantic_labels
                )
            if self.panoptic_on:
                result["panoptic_seg"] = self.panoptic(class_logits, mask_logits, sizes)
            if self.instance_on:
                result["instances"] = self.instances(class_logits, mask_logits, sizes)
            results.append(result)
        return results

    def semantic(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes, *, labels: bool = False
    ) -> Tensor:
        """Semantic scores of one image, (K, height, width), or its classes, (height, width)."""
        infer = inference.semantic_labels if labels else inference.semantic_inference
        return infer(class_logits, mask_logits, sizes, scale_scores=not self.resize_before_semantic)

    def panoptic(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Panoptic map and segments of one image; only confident masks are scaled up."""
        keep, scores, labels = inference.confident_queries(class_logits, self.object_mask_threshold)
        return inference.panoptic_inference(
            scores,
            labels,
            mask_logits[keep],
            sizes,
            thing_classes=self.thing_classes,
            overlap_threshold=self.overlap_threshold,
        )

    def instances(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Instances:
        """Instances of one image."""
        pairs = inference.top_instances(
            class_logits, thing_classes=self.thing_classes, top_k=self.max_instances
        )
        return inference.instance_inference(*pairs, mask_logits, sizes)


def result_sizes(images: ImageList, batched_inputs: list[dict[str, Any]]) -> list[Sizes]:
    """The sizes that the masks of each image go through."""
    padded_size = tuple(images.tensor.shape[-2:])
    return [
        Sizes(padded_size, (height, width), (x.get("height", height), x.get("width", width)))
        for (height, width), x in zip(images.image_sizes, batched_inputs, strict=True)
    ]


def _matcher(cfg: CfgNode) -> Matcher:
    keys = cfg.MODEL.MASK_FORMER
    if keys.MATCHER == "hungarian":
        return HungarianMatcher(
            mask_weight=keys.MASK_WEIGHT,
            dice_weight=keys.DICE_WEIGHT,
            points=_points(cfg),
            compiled=cfg.MODEL.COMPILE,
        )
    if keys.MATCHER == "fixed":
        return FixedMatcher(
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, num_queries=keys.NUM_OBJECT_QUERIES
        )
    raise UserError(
        f"MODEL.MASK_FORMER.MATCHER is {keys.MATCHER!r}; it must be 'hungarian' or 'fixed'"
    )


def _points(cfg: CfgNode) -> PointSampling | None:
    keys = cfg.MODEL.MASK_FORMER
    if keys.TRAIN_NUM_POINTS == 0:
        return None
    return PointSampling(keys.TRAIN_NUM_POINTS, keys.OVERSAMPLE_RATIO, keys.IMPORTANCE_SAMPLE_RATIO)
