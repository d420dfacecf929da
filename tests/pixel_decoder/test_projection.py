"""Masks made at once, without the embeddings of the pixels."""

import gc
import weakref

import pytest
import torch
from torch import nn

from mask_former.pixel_decoder.projection import ProjectedPixels, Projection
from mask_former.structures import PixelFeatures


def make(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64).to(memory_format=memory_format)
    conv = nn.Conv2d(6, 8, 3, padding=1).double()
    conv.calls = []
    conv.register_forward_hook(lambda *_: conv.calls.append(1))
    return conv, x, ProjectedPixels(Projection(x, conv), {"res5": x[:, :, ::4, ::4]})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("masks", "calls"), [(1, 0), (7, 0), (8, 1), (20, 1)])
def test_masks_equal_the_product_with_the_embeddings(masks, calls, memory_format):
    conv, x, pixels = make(memory_format)
    embeddings = torch.randn(2, masks, 8, dtype=torch.float64)
    found = pixels.masks(embeddings)
    assert len(conv.calls) == calls
    torch.testing.assert_close(found, PixelFeatures(conv(x), {}).masks(embeddings))
    assert found.is_contiguous()


def test_embeddings_are_computed_once_and_only_if_they_are_asked_for():
    conv, x, pixels = make()
    assert list(pixels.maps) == ["res5", "pixel_embedding"] and len(pixels.maps) == 2
    assert pixels.maps["res5"].shape == (2, 6, 3, 3)
    assert not conv.calls
    assert torch.equal(pixels.maps["pixel_embedding"], pixels.mask_features)
    assert len(conv.calls) == 1
    assert torch.equal(pixels.mask_features, conv(x))


def test_memory_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        _, _, pixels = make()
        embeddings = weakref.ref(pixels.mask_features)
        del pixels
        assert embeddings() is None
    finally:
        gc.enable()
