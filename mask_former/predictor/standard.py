"""The paper's predictor (section 3.2): DETR's transformer decoder on one feature map."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import nn

from mask_former.predictor.build import PREDICTOR_REGISTRY
from mask_former.predictor.single_scale import QueryMasks
from mask_former.structures import PixelFeatures, Prediction


@PREDICTOR_REGISTRY.register()
class StandardPredictor(QueryMasks):
    """Learned queries attend to one feature map; each becomes a class and a mask.

    Args:
        num_classes: K, without "no object".
        hidden_dim, options: see `QueryMasks`.
    """

    @configurable
    def __init__(self, *, num_classes: int, hidden_dim: int = 256, **options: Any) -> None:
        super().__init__(hidden_dim=hidden_dim, **options)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def forward(self, pixels: PixelFeatures) -> list[Prediction]:
        """Return the predictions of every supervised layer, the final one last."""
        segments, embeddings, masks = self.decode(pixels)
        layers = zip(self.class_embed(segments), masks, embeddings, strict=True)
        features = pixels.mask_features if self.training else None  # only losses need them
        return [Prediction(*layer, features) for layer in layers]
