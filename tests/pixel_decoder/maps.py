"""Maps of a backbone, for the tests of all pixel decoders."""

import torch
from detectron2.layers import ShapeSpec

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 24}
SHAPES = {
    name: ShapeSpec(channels=c, stride=4 * 2**i) for i, (name, c) in enumerate(CHANNELS.items())
}


def make_features(height=64, width=96, batch=2):
    """Random maps of images of a size, each of which may end in a part of a pixel."""
    generator = torch.Generator().manual_seed(0)
    sizes = {
        n: (batch, s.channels, -(-height // s.stride), -(-width // s.stride))
        for n, s in SHAPES.items()
    }
    return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
