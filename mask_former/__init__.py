"""MaskFormer: mask classification for semantic, instance and panoptic segmentation.

Importing this package registers its components and data sets with Detectron2, and does nothing
else.
"""

from mask_former.compat import require_detectron2

require_detectron2()

__version__ = "0.1.0"

from mask_former import backbone, data, head, meta_arch, pixel_decoder, predictor  # noqa: E402
from mask_former.config import add_mask_former_config, add_maskformer2_config  # noqa: E402
from mask_former.meta_arch import MaskFormer  # noqa: E402

__all__ = [
    "MaskFormer",
    "add_mask_former_config",
    "add_maskformer2_config",
    "backbone",
    "data",
    "head",
    "meta_arch",
    "pixel_decoder",
    "predictor",
]
