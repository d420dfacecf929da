"""Weights of other code bases: to ours, and for `transformers` back."""

from mask_former.conversion.hugging_face import to_hugging_face
from mask_former.conversion.sources import SOURCES, Conversion, find_source, to_ours

__all__ = ["SOURCES", "Conversion", "find_source", "to_hugging_face", "to_ours"]
