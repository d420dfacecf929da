"""MaskFormer: mask classification for semantic, instance and panoptic segmentation.

Importing this package registers its components with Detectron2, and does nothing else.
"""

from .compat import require_detectron2

require_detectron2()

__version__ = "0.1.0"
