"""MaskFormer, the meta-architecture: the paper's figure 2 from an image to its segmentation."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.structures import BitMasks, ImageList, PolygonMasks
from torch import Tensor, nn

from mask_former.criterion import Average, SetCriterion
from mask_former.data.label_map import LabelMapMasks
from mask_former.data.metadata import thing_classes
from mask_former.errors import NonFiniteError, UserError
from mask_former.inference import Inference, Sizes
from mask_former.matcher import NonFinitePredictions
from mask_former.structures import Prediction, Target, to_device


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Mask classification for semantic, instance and panoptic segmentation.

    Args:
        backbone: Detectron2 backbone, (B, 3, H, W) -> {name: feature map}.
        sem_seg_head: features -> predictions of the decoder layers.
        criterion: predictions, targets -> weighted losses.
        inference: the prediction for one image -> its segmentations.
        pixel_mean, pixel_std: of the input's channels, in units of the image (0..255).
        size_divisibility: batches are padded to a multiple of this; 0 pads to the largest image.
        ignore_void: leave padded and unannotated pixels out of matching and mask losses, instead
            of counting them as background of every mask.
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
        inference: Inference,
        pixel_mean: Collection[float],
        pixel_std: Collection[float],
        size_divisibility: int = 32,
        ignore_void: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.inference = inference
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.size_divisibility = size_divisibility
        self.ignore_void = ignore_void

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        keys, test = cfg.MODEL.MASK_FORMER, cfg.MODEL.MASK_FORMER.TEST
        divisibility = keys.SIZE_DIVISIBILITY
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": SetCriterion(cfg),
            "inference": Inference(
                semantic_on=test.SEMANTIC_ON,
                instance_on=test.INSTANCE_ON,
                panoptic_on=test.PANOPTIC_ON,
                thing_classes=frozenset(thing_classes(cfg)),
                object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
                overlap_threshold=test.OVERLAP_THRESHOLD,
                void_below_half=test.VOID_BELOW_HALF,
                resize_before_semantic=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
                semantic_labels=test.SEMANTIC_LABELS,
                max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
                top_of_all_classes=test.TOP_OF_ALL_CLASSES,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": backbone.size_divisibility if divisibility < 0 else divisibility,
            "ignore_void": keys.IGNORE_VOID,
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
            in training the weighted losses by name; otherwise one dict an image, see `Inference`.

        Raises:
            NonFiniteError: a prediction is NaN or infinite; names the images.
        """
        images = self.preprocess(batched_inputs)
        predictions = self.predict(images.tensor)
        if not self.training:
            return self.postprocess(predictions[-1], images, batched_inputs)
        targets = self.prepare_targets(batched_inputs, images)
        try:
            return self.criterion(predictions, targets)
        except NonFinitePredictions as error:
            names = _names(batched_inputs, error.images)
            raise NonFiniteError(f"predictions are NaN or infinite for {names}") from error

    def normalize_by(
        self, batch: Sequence[dict[str, Any]] | None, average: Average | None = None
    ) -> None:
        """Divide losses by what all of `batch` holds, of which the inputs that follow are parts;
        None: by what the inputs hold. See `SetCriterion`."""
        labels = batch and [to_device(x["instances"].gt_classes, self.device) for x in batch]
        self.criterion.normalize_by_labels(labels, average)

    def predict(self, images: Tensor) -> Sequence[Prediction]:
        """Run the network: all that follows, in training and inference, starts from here.

        Args:
            images: normalized and padded, (B, 3, H, W); see `preprocess`.

        Returns:
            the predictions of the supervised decoder layers, the final one last; in inference the
            final one may be the only one.
        """
        return self.sem_seg_head(self.backbone(images))

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize the images and pad them to one size with zeros."""
        images = [to_device(x["image"], self.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.size_divisibility)

    def prepare_targets(
        self, batched_inputs: list[dict[str, Any]], images: ImageList
    ) -> list[Target]:
        """Move the ground truth to the device, its masks padded to the batch's size.

        Raises:
            UserError: see `check_labels` and `ground_truth_masks`.
        """

        def padded(masks: Tensor) -> Tensor:
            size = (*masks.shape[:-2], *images.tensor.shape[-2:])
            result = torch.zeros(size, dtype=torch.bool, device=self.device)
            result[..., : masks.shape[-2], : masks.shape[-1]] = to_device(masks, self.device)
            return result

        targets = []
        num_classes = getattr(self.criterion, "num_classes", math.inf)
        for x, image_size in zip(batched_inputs, images.image_sizes, strict=True):
            masks = ground_truth_masks(x)
            check_labels(x, num_classes)
            labels = to_device(x["instances"].gt_classes, self.device)
            if isinstance(masks, LabelMapMasks):  # lighter to move than what is made of it
                masks = masks.to(self.device)
            masks = padded(getattr(masks, "tensor", masks))
            valid = None
            if self.ignore_void:
                valid = padded(x.get("valid", torch.ones(image_size, dtype=torch.bool)))
            targets.append(Target(labels, masks, valid))
        return targets

    def semantic_scores(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        """The semantic scores of each image, (K, height, width), whatever `forward` returns; see
        there for the arguments."""
        images = self.preprocess(batched_inputs)
        prediction = self.predict(images.tensor)[-1]
        sizes = result_sizes(images, batched_inputs)
        predictions = (*finite_logits(prediction, batched_inputs), sizes)
        return [self.inference.semantic(*one) for one in zip(*predictions, strict=True)]

    def postprocess(
        self, prediction: Prediction, images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Segment the images one at a time, each at its requested size."""
        sizes = result_sizes(images, batched_inputs)
        predictions = (*finite_logits(prediction, batched_inputs), sizes)
        return [self.inference(*one) for one in zip(*predictions, strict=True)]


def check_labels(record: dict[str, Any], num_classes: float) -> None:
    """Raise UserError unless the segments of a mapped record are of the classes 0 .. K-1. Class K,
    as of a mapper that counts from 1, would be learned as "no object" without a word.

    Not where they are on a GPU already, for which the host would have to wait.
    """
    labels = record["instances"].gt_classes
    if labels.device.type != "cpu":
        return
    if wrong := sorted({label for label in labels.tolist() if not 0 <= label < num_classes}):
        raise UserError(
            f"{record.get('file_name', 'a record')}: the mapper gives segments the classes "
            f"{wrong}, but they must lie in 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES "
            f"is {num_classes}). Leave out segments without a class."
        )


def ground_truth_masks(record: dict[str, Any]) -> Any:
    """The masks of a mapped record, whoever has mapped it; polygons are drawn.

    Raises:
        UserError: it has none, as from Detectron2's own mapper without MODEL.MASK_ON.
    """
    instances = record.get("instances")
    if instances is None or not instances.has("gt_masks"):
        raise UserError(
            f"{record.get('file_name', 'a record')}: the mapper gives no masks. With Detectron2's "
            "DatasetMapper set MODEL.MASK_ON True, and train on data with `annotations`; "
            "MaskFormerDatasetMapper makes masks of every kind of annotation."
        )
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        return BitMasks.from_polygon_masks(masks, *instances.image_size)
    return masks


def result_sizes(images: ImageList, batched_inputs: list[dict[str, Any]]) -> list[Sizes]:
    """The sizes that the masks of each image go through."""
    padded_size = tuple(images.tensor.shape[-2:])
    return [
        Sizes(padded_size, (height, width), (x.get("height", height), x.get("width", width)))
        for (height, width), x in zip(images.image_sizes, batched_inputs, strict=True)
    ]


def finite_logits(
    prediction: Prediction, batched_inputs: list[dict[str, Any]]
) -> tuple[Tensor, Tensor]:
    """What all results are made of: the class logits, in float32, and the mask logits.

    Raises:
        NonFiniteError: see `check_finite_predictions`; no figure is to be made of these.
    """
    class_logits, mask_logits = prediction.class_logits.float(), prediction.mask_logits
    if not class_logits.is_meta:
        check_finite_predictions(batched_inputs, class_logits, mask_logits)
    return class_logits, mask_logits


def check_finite_predictions(
    batched_inputs: Sequence[dict[str, Any]], *predictions: Sequence[Tensor]
) -> None:
    """Raise NonFiniteError if a prediction, of a tensor an image, is NaN or infinite; names the
    images."""
    sums = [torch.stack([x.sum(dtype=torch.float32) for x in tensors]) for tensors in predictions]
    bad = (~torch.stack(sums).isfinite()).any(0).nonzero()[:, 0].tolist()
    if bad:
        raise NonFiniteError(
            f"predictions are NaN or infinite for {_names(batched_inputs, bad)}. If the model is "
            "evaluated in float16, set TEST.PRECISION float32 (or bfloat16); else its weights are "
            "not those of a training that went well."
        )


def _names(batched_inputs: list[dict[str, Any]], indices: Sequence[int]) -> list[str]:
    return [batched_inputs[i].get("file_name", f"image {i}") for i in indices]
