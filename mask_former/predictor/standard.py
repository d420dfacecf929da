"""The paper's predictor (section 3.2): DETR's transformer decoder on one feature map."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec

from mask_former.predictor.build import PREDICTOR_REGISTRY
from mask_former.predictor.single_scale import SingleScaleQueries
from mask_former.structures import PixelFeatures, Prediction


@PREDICTOR_REGISTRY.register()
class StandardPredictor(SingleScaleQueries):
    """Learned queries attend to one feature map; each becomes a class and a mask.

    See `SingleScaleQueries` for the arguments.
    """

    @configurable
    def __init__(self, *, num_classes: int, **queries: Any) -> None:
        super().__init__(num_classes=num_classes, **queries)

    @classmethod
    def from_config(cls, cfg: CfgNode, memory_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, memory_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def forward(self, pixels: PixelFeatures) -> list[Prediction]:
        """Return the predictions of every supervised layer, the final one last."""
        segments = self.segments(pixels)
        if not torch.is_grad_enabled() and pixels.projection is not None:
            num_masks = len(segments) * segments[0].shape[1]
            if num_masks < pixels.projection.out_channels:
                return [self.predict_by_kernels(x, pixels) for x in segments]
        mask_features = pixels.mask_features
        return [self.predict(x, mask_features) for x in segments]


@PREDICTOR_REGISTRY.register()
class StandardTransformerDecoder(StandardPredictor):
    """`StandardPredictor` by its name in Mask2Former's repository."""
