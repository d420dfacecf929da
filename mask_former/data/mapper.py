"""Maps the records of data sets to model inputs: one mapper for every kind of annotation."""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances

from mask_former.data import large_scale_jitter
from mask_former.data.augmentation import LabelledImage, build_augmentation, pad_to_multiple
from mask_former.data.reading import check_image_format, read_image
from mask_former.data.records import (
    Record,
    image_size,
    read_annotations,
    read_label_map,
    read_segment_map,
)
from mask_former.data.targets import (
    Segments,
    instance_target,
    panoptic_target,
    semantic_target,
)
from mask_former.errors import check_choice

# What a training sample keeps of its record, lest the rest be sent between processes.
_KEPT = ("file_name", "image_id", "height", "width")


class Annotation(ABC):
    """The annotation of one image: read and checked when constructed, then turned into segments.

    Attributes:
        label_map: uint8 or int32 (H, W), transformed together with the image. None: the annotation
            has none.
        void: the label of pixels that belong to no segment; padded pixels get it.
    """

    label_map: np.ndarray | None = None
    void: int = 0

    @abstractmethod
    def __init__(
        self, record: Record, size: tuple[int, int], num_classes: int, ignore_value: int
    ) -> None:
        """Read the annotation of a record, whose image has the given size (height, width)."""

    @abstractmethod
    def segments(
        self, label_map: np.ndarray | None, transforms: T.Transform, size: tuple[int, int]
    ) -> Segments:
        """The segments of the transformed image, which has the given size (height, width).

        `label_map` is transformed and padded.
        """

    def classes(self, label_map: np.ndarray) -> np.ndarray:
        """The class of each pixel of a (transformed) label map."""
        return label_map


class SemanticAnnotation(Annotation):
    """A class for each pixel; one segment per class."""

    def __init__(self, record, size, num_classes, ignore_value) -> None:
        self.label_map = read_label_map(record, size, num_classes, ignore_value)
        self.void = ignore_value

    def segments(self, label_map, transforms, size) -> Segments:
        return semantic_target(label_map, self.void)


class PanopticAnnotation(Annotation):
    """A segment for each pixel; one segment per thing and per stuff class."""

    def __init__(self, record, size, num_classes, ignore_value) -> None:
        self.label_map = read_segment_map(record, size, num_classes)
        segments = record["segments_info"]
        self._segments = [{**segment, "id": n} for n, segment in enumerate(segments, start=1)]
        self._class_of = np.array([ignore_value] + [s["category_id"] for s in segments])

    def segments(self, label_map, transforms, size) -> Segments:
        return panoptic_target(label_map, self._segments)

    def classes(self, label_map: np.ndarray) -> np.ndarray:
        return self._class_of[label_map]


class InstanceAnnotation(Annotation):
    """Masks that may overlap; one segment per instance."""

    def __init__(self, record, size, num_classes, ignore_value) -> None:
        self._annotations = read_annotations(record, size, num_classes)

    def segments(self, label_map, transforms, size) -> Segments:
        return instance_target(self._annotations, transforms, size)


ANNOTATIONS: dict[str, type[Annotation]] = {
    "mask_former_semantic": SemanticAnnotation,
    "mask_former_panoptic": PanopticAnnotation,
    "mask_former_instance": InstanceAnnotation,
    "detr_panoptic": PanopticAnnotation,
    "coco_panoptic_lsj": PanopticAnnotation,
    "coco_instance_lsj": InstanceAnnotation,
    "semantic_lsj": SemanticAnnotation,
}


def annotation_type(name: str) -> type[Annotation]:
    """The kind of annotation of an INPUT.DATASET_MAPPER_NAME; UserError if that is unknown."""
    check_choice("INPUT.DATASET_MAPPER_NAME", name, ANNOTATIONS)
    return ANNOTATIONS[name]


class MaskFormerDatasetMapper:
    """Reads, augments and packs one record of a Detectron2 data set.

    In training the result is `image`, uint8 (3, H, W); `instances` with `gt_classes` int64 (N,)
    and `gt_masks` BitMasks (N, H, W), N may be 0; for semantic annotations also `sem_seg`, int64
    (H, W); with `give_valid` also `valid`, bool (H, W), the annotated pixels; and the record's
    `file_name`, `image_id`, `height` and `width`, the latter two those of the file. Otherwise it is
    `image` and the record without its instance annotations.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        annotation: type[Annotation],
        augmentations: list[T.Augmentation],
        image_format: str,
        num_classes: int,
        ignore_value: int = 255,
        size_divisibility: int = 0,
        padding_value: int = 128,
        give_valid: bool = False,
        exif: bool = True,
    ) -> None:
        """
        Args:
            is_train: whether to augment the image and return ground truth.
            annotation: the kind of annotation that is the ground truth.
            augmentations: applied in turn to the image and its annotation.
            image_format: channel order, "RGB" or "BGR".
            num_classes: K; labels outside of [0, K) are errors.
            ignore_value: the label of pixels without a class.
            size_divisibility: both sides are padded to a multiple of this; 0 or less: no padding.
            padding_value: of padded pixels, 0..255.
            give_valid: whether training samples have `valid`, the mask of annotated pixels.
            exif: whether the orientation of EXIF is applied to images.
        """
        check_image_format(image_format)
        self.is_train = is_train
        self.annotation = annotation
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.size_divisibility = size_divisibility
        self.padding_value = padding_value
        self.give_valid = give_valid
        self.exif = exif

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        divisibility = cfg.INPUT.SIZE_DIVISIBILITY
        if cfg.INPUT.DATASET_MAPPER_NAME in large_scale_jitter.NAMES:
            divisibility = cfg.INPUT.IMAGE_SIZE  # no side is longer, so both become just that
        return {
            "is_train": is_train,
            "annotation": annotation_type(cfg.INPUT.DATASET_MAPPER_NAME),
            "augmentations": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "size_divisibility": divisibility,
            "padding_value": cfg.INPUT.PADDING_VALUE,
            "give_valid": cfg.MODEL.MASK_FORMER.IGNORE_VOID,
            "exif": cfg.INPUT.EXIF_ORIENTATION,
        }

    def __call__(self, record: Record) -> dict[str, Any]:
        """Map `record`, which is not modified.

        Raises:
            FileNotFoundError, UserError: a file is missing, broken, or does not fit the record
                or the configuration; the message names it.
        """
        record = dict(record)
        image = read_image(
            record["file_name"], self.image_format, size=image_size(record), exif=self.exif
        )
        record["height"], record["width"] = image.shape[:2]
        if self.is_train:
            return self._training_sample(record, image)
        sample = LabelledImage(image)
        self.augmentations(sample)
        record.pop("annotations", None)
        return {**record, "image": _channels_first(sample.image)}

    def _training_sample(self, record: Record, image: np.ndarray) -> dict[str, Any]:
        annotation = self.annotation(record, image.shape[:2], self.num_classes, self.ignore_value)
        sample = LabelledImage(image, annotation.label_map, annotation.classes)
        transforms = self.augmentations(sample)
        pad = partial(pad_to_multiple, divisor=self.size_divisibility)
        labels = sample.labels
        if labels is not None:
            labels = pad(torch.from_numpy(labels), value=annotation.void).numpy()
        segments = annotation.segments(labels, transforms, sample.image.shape[:2])
        masks = segments.masks
        if labels is None:
            masks = BitMasks(pad(masks.tensor, value=False))

        result = {key: record[key] for key in _KEPT if key in record}
        result["image"] = pad(_channels_first(sample.image), value=self.padding_value)
        result["instances"] = Instances(
            tuple(result["image"].shape[1:]), gt_classes=segments.labels, gt_masks=masks
        )
        if self.give_valid:
            result["valid"] = pad(segments.valid, value=False)
        if issubclass(self.annotation, SemanticAnnotation):
            # The per-pixel baselines learn from the label map itself.
            result["sem_seg"] = torch.from_numpy(labels).long()
        return result


def _channels_first(image: np.ndarray) -> torch.Tensor:
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes))  # ten times as fast as a transposed copy
    return torch.from_numpy(planes)
