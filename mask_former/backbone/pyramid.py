"""What backbones of several maps have in common."""

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn


class PyramidBackbone(Backbone):
    """A backbone of several maps, parts of which may be frozen.

    Subclasses set both attributes in their constructors.

    Attributes:
        shapes: of the maps, by name.
        frozen: modules that stay in evaluation mode: their norms keep normalizing by the statistics
            that they have.
    """

    shapes: Mapping[str, ShapeSpec]
    frozen: Sequence[nn.Module]

    def train(self, mode: bool = True) -> "PyramidBackbone":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        return max(shape.stride for shape in self.shapes.values())

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self.shapes)
