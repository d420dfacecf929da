"""Maps of a backbone, and what every pixel decoder promises of its memory."""

import torch
from detectron2.layers import ShapeSpec
from torch import nn

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 24}
SHAPES = {
    name: ShapeSpec(channels=c, stride=4 * 2**i) for i, (name, c) in enumerate(CHANNELS.items())
}
# Channels and strides of each memory that a decoder of 32 channels, and embeddings of 20, offers.
MEMORY = {
    "res4": [(16, 16)],
    "pixel_embedding": [(20, 4)],
    "multi_scale_pixel_decoder": [(32, 32), (32, 16), (32, 8)],
    "transformer_encoder": [(32, 32)],
}


def make_features(height=64, width=96, batch=2):
    generator = torch.Generator().manual_seed(0)
    sizes = {
        name: (batch, shape.channels, -(-height // shape.stride), -(-width // shape.stride))
        for name, shape in SHAPES.items()
    }
    return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}


def assert_has_promised_shapes(decoder: nn.Module, memory: str, size: tuple[int, int]) -> None:
    """Of the memory and of the per-pixel embeddings, for images of that size."""
    pixels = decoder(make_features(*size))
    assert pixels.mask_features.shape == (2, 20, *(-(-x // 4) for x in size))
    assert [(s.channels, s.stride) for s in decoder.memory_shape] == MEMORY[memory]
    for feature, shape in zip(pixels.memory, decoder.memory_shape, strict=True):
        assert feature.shape == (2, shape.channels, *(-(-x // shape.stride) for x in size))
