"""A small panoptic data set of drawn shapes, made in seconds."""

from mask_former.data.shapes.make import make_shapes

__all__ = ["make_shapes"]
