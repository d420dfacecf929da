"""Reading weights without running anything, saving them whole, and weights of other code bases."""

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.hugging_face import to_hugging_face
from mask_former.checkpoint.sources import SOURCES, Conversion, find_source, to_ours

__all__ = [
    "SOURCES",
    "Conversion",
    "MaskFormerCheckpointer",
    "find_source",
    "to_hugging_face",
    "to_ours",
]
