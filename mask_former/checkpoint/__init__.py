"""Weights: read without running anything, saved whole, converted from and to other code bases."""

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.convert import SOURCES, Conversion, find_source, read_as_ours, to_ours
from mask_former.checkpoint.hugging_face import to_hugging_face
from mask_former.checkpoint.read import read_weights_file
from mask_former.checkpoint.write import write_weights

__all__ = [
    "SOURCES",
    "Conversion",
    "MaskFormerCheckpointer",
    "find_source",
    "read_as_ours",
    "read_weights_file",
    "to_hugging_face",
    "to_ours",
    "write_weights",
]
