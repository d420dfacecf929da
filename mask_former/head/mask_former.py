"""The head of MaskFormer: a pixel decoder and a predictor."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from mask_former.pixel_decoder import build_pixel_decoder
from mask_former.predictor import build_predictor
from mask_former.structures import Prediction


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """From the backbone's features to masks and their classes.

    Args:
        pixel_decoder: features -> `PixelFeatures`; see `PIXEL_DECODER_REGISTRY`.
        predictor: `PixelFeatures` -> predictions; see `PREDICTOR_REGISTRY`.
        num_classes: K, without "no object".
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        pixel_decoder = build_pixel_decoder(cfg, input_shape)
        return {
            "pixel_decoder": pixel_decoder,
            "predictor": build_predictor(cfg, pixel_decoder.memory_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def forward(self, features: dict[str, Tensor]) -> list[Prediction]:
        """`features` {name: (B, C, h, w)} -> predictions of the layers, the final one last."""
        return self.predictor(self.pixel_decoder(features))
