"""Per-pixel classification, and the baselines of it that the paper compares with (section 4,
table 1).

All are heads of Detectron2's `SemanticSegmentor`: they predict a distribution over the classes
for every pixel, independently, and learn from the label map by cross entropy.
"""

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from mask_former.criterion import Average, average_over_processes, class_weights
from mask_former.errors import UserError
from mask_former.pixel_decoder import build_pixel_decoder
from mask_former.predictor import SingleScaleQueries
from mask_former.structures import PixelFeatures, at_least_float32, multiply_out


class PixelClassifier(nn.Conv2d):
    """Class logits of a pixel, linear in its embedding."""

    def __init__(self, mask_dim: int, num_classes: int) -> None:
        super().__init__(mask_dim, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self)

    def forward(self, pixels: PixelFeatures) -> Tensor:
        """Logits of the only layer, (1, B, K, h, w)."""
        return super().forward(pixels.mask_features)[None]


class QueryClassifier(SingleScaleQueries):
    """One query for each class; its mask logits are the logits of the class.

    See `SingleScaleQueries` for the arguments.
    """

    @configurable
    def __init__(self, **queries: Any) -> None:
        super().__init__(num_classes=None, **queries)

    def forward(self, pixels: PixelFeatures) -> Tensor:
        """Logits of the supervised layers, the final one last, (L, B, K, h, w)."""
        mask_features = pixels.mask_features
        embeddings = [self.mask_embed(x) for x in self.segments(pixels)]
        return torch.stack([multiply_out(x, mask_features) for x in embeddings])


class PerPixelHead(nn.Module):
    """What per-pixel classifiers share: logits at the size of the input, and cross entropy.

    Args:
        common_stride: of the logits: they are upsampled by this factor.
        loss_weight: weight of every layer's loss.
        ignore_value: label of the pixels that have no loss.
        class_weights: weights of the K classes in the cross entropy; None: 1 each.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        common_stride: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.normalize_by(None)

    @staticmethod
    def loss_options(cfg: CfgNode) -> dict[str, Any]:
        """The arguments of the loss."""
        return {
            "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "class_weights": class_weights(cfg),
        }

    def classify(self, features: Any) -> Tensor:
        """What the backbone returns -> logits of every supervised layer, the final one last,
        (L, B, K, h, w)."""
        raise NotImplementedError

    def forward(
        self, features: Any, targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the losses in training, and the class logits otherwise.

        Args:
            features: of the backbone.
            targets: class of every pixel, int64 (B, H, W); needed in training only.

        Returns:
            None and the weighted losses by name; or logits (B, K, H', W'), with H' >= H and
            W' >= W, and no loss.

        Raises:
            UserError: no targets in training.
        """
        layers = self.classify(features)
        if not self.training:
            return self.upsample(layers[-1]), {}
        if targets is None:
            raise self._no_label_map()
        return None, self.losses(layers, targets)

    def upsample(self, logits: Tensor) -> Tensor:
        """Logits (B, K, h, w) at the size of the input, rounded up to strides; at least float32."""
        logits = at_least_float32(logits)
        return F.interpolate(logits, scale_factor=self.common_stride, mode="bilinear")

    def _no_label_map(self) -> UserError:
        return UserError(
            f"{type(self).__name__} learns from a label map, `sem_seg`, which the samples lack; "
            "set INPUT.DATASET_MAPPER_NAME to mask_former_semantic"
        )

    def normalize_by(
        self, batch: Sequence[dict[str, Any]] | None, average: Average | None = None
    ) -> None:
        """Divide losses by the pixels of all of `batch`, of which the inputs that follow are parts.

        Args:
            batch: samples with `sem_seg`, int64 (H, W); None: the inputs are a batch.
            average: what takes the mean of a tensor over the processes; None:
                `average_over_processes`.
        """
        if batch and not all("sem_seg" in sample for sample in batch):
            raise self._no_label_map()
        self._batch_weight = batch and sum(self._weight(x["sem_seg"]) for x in batch)
        self._average = average

    def _weight(self, labels: Tensor) -> Tensor:
        """Sum of the weights of the pixels that have a class, a scalar."""
        annotated = labels != self.ignore_value
        if self.class_weights is None:
            return annotated.sum().float()
        weights = self.class_weights.to(labels.device)
        return (weights[labels.where(annotated, 0)] * annotated).sum()

    def losses(self, layers: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Weighted mean of the cross entropy over the pixels of the batch that have a class, of
        every layer.

        The sum of the weights is averaged over the processes. Computed in float32.

        Args:
            layers: logits (L, B, K, h, w).
            targets: int64 (B, H, W).

        Returns:
            scalars `loss_sem_seg` of the final layer, and `loss_sem_seg_0` ... of the earlier.
        """
        height, width = targets.shape[-2:]
        total = self._weight(targets) if self._batch_weight is None else self._batch_weight
        average = self._average or average_over_processes
        total = average(total.to(targets.device, copy=True))  # in place
        weight = self.loss_weight / total.where(total > 0, 1)  # of nothing, the sum is 0
        suffixes = [f"_{i}" for i in range(len(layers) - 1)] + [""]
        return {
            f"loss_sem_seg{suffix}": weight
            * F.cross_entropy(
                self.upsample(logits)[..., :height, :width],
                targets,
                self.class_weights,
                ignore_index=self.ignore_value,
                reduction="sum",
            )
            for suffix, logits in zip(suffixes, layers.unbind(), strict=True)
        }


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselineHead(PerPixelHead):
    """PerPixelBaseline: a pixel decoder, and a linear classifier of the per-pixel embeddings.

    Args:
        pixel_decoder: features -> `PixelFeatures`; see `PIXEL_DECODER_REGISTRY`.
        predictor: `PixelFeatures` -> logits of every supervised layer, the final one last,
            (L, B, K, h, w).
        options: of `PerPixelHead`.
    """

    @configurable
    def __init__(
        self,
        *,
        pixel_decoder: nn.Module,
        predictor: nn.Module,
        common_stride: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(common_stride=common_stride, **options)
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Raises UserError if the pixel decoder's embeddings have another stride: logits would be
        upsampled beyond the image, and its upper left corner taken for the whole."""
        pixel_decoder = build_pixel_decoder(cfg, input_shape)
        common_stride = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
        stride = getattr(pixel_decoder, "embedding_stride", common_stride)
        if stride != common_stride:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {common_stride}, but the finest map of its "
                f"IN_FEATURES {list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)}, whose pixels are "
                f"classified, has stride {stride}: set COMMON_STRIDE to that, or name another map."
            )
        return {
            "pixel_decoder": pixel_decoder,
            "predictor": cls.build_predictor(cfg, pixel_decoder.memory_shape),
            "common_stride": common_stride,
            **cls.loss_options(cfg),
        }

    @classmethod
    def build_predictor(cls, cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> nn.Module:
        """Build the classifier on top of a pixel decoder with a memory of these shapes."""
        return PixelClassifier(cfg.MODEL.SEM_SEG_HEAD.MASK_DIM, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """`features` {name: (B, C, h, w)} -> logits (L, B, K, h, w)."""
        return self.predictor(self.pixel_decoder(features))


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselinePlusHead(PerPixelBaselineHead):
    """PerPixelBaseline+: classifies with MaskFormer's transformer and mask embeddings, one query a
    class, so that only the formulation differs from MaskFormer. See `PerPixelBaselineHead`."""

    @classmethod
    def build_predictor(cls, cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> nn.Module:
        """Raises UserError if there is not one query a class."""
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
        if queries != classes:
            raise UserError(
                f"PerPixelBaselinePlusHead has one query for each class, but "
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {queries} and "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}; set both to the same number"
            )
        return QueryClassifier(cfg, memory_shape)
