"""The maps that queries attend to are of the promised channels and strides, of every decoder."""

import pytest

from mask_former.pixel_decoder import TransformerEncoderPixelDecoder
from tests.pixel_decoder import test_deformable, test_deformable_conv, test_pixel_decoders
from tests.pixel_decoder.maps import make_features

DECODERS = {
    "transformer": lambda memory: test_pixel_decoders.make(
        TransformerEncoderPixelDecoder, memory=memory
    ),
    "deformable attention": lambda memory: test_deformable.make(memory=memory),
    "deformable convolution": lambda memory: test_deformable_conv.make(memory=memory),
}
# (channels, stride) of each map.
MEMORY = {
    "res4": [(16, 16)],
    "pixel_embedding": [(20, 4)],
    "multi_scale_pixel_decoder": [(32, 32), (32, 16), (32, 8)],
    "transformer_encoder": [(32, 32)],
}
CASES = [
    (decoder, memory)
    for decoder in DECODERS
    for memory in MEMORY
    if (decoder, memory) != ("deformable convolution", "transformer_encoder")  # it has none
]


@pytest.mark.parametrize("size", [(64, 96), (61, 93), (20, 33)])
@pytest.mark.parametrize(("decoder", "memory"), CASES)
def test_the_memory_has_the_promised_shapes(decoder, memory, size):
    model = DECODERS[decoder](memory)
    pixels = model(make_features(*size))
    assert pixels.mask_features.shape == (2, 20, *(-(-x // 4) for x in size))
    assert [(s.channels, s.stride) for s in model.memory_shape] == MEMORY[memory]
    for feature, shape in zip(pixels.memory, model.memory_shape, strict=True):
        assert feature.shape == (2, shape.channels, *(-(-x // shape.stride) for x in size))
