"""What occurs in the images of the shapes data set, and that the labels fit the pixels."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mask_former.data.shapes import render, scene
from mask_former.data.shapes.scene import Sample, SceneSegment

THINGS = list(render.OUTLINES)
STUFF = list(render.TEXTURES)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [scene.make_sample(np.random.default_rng([0, i])) for i in range(60)]


def things(sample: Sample) -> list[SceneSegment]:
    return [segment for segment in sample.segments if segment.name in THINGS]


def touching_of_one_class(sample: Sample) -> bool:
    for i, first in enumerate(sample.segments):
        grown = cv2.dilate((sample.segment_map == i + 1).astype(np.uint8), np.ones((3, 3)))
        for j, second in enumerate(sample.segments):
            if i < j and first == second and (grown[sample.segment_map == j + 1]).any():
                return True
    return False


def test_every_segment_is_in_the_map_and_nothing_else(samples):
    for sample in samples:
        present = set(np.unique(sample.segment_map)) - {scene.VOID}
        assert present == set(range(1, len(sample.segments) + 1))
        assert sample.image.shape == (*sample.segment_map.shape, 3)
        assert sample.image.dtype == np.uint8


def test_stuff_is_one_segment_per_class(samples):
    for sample in samples:
        stuff = Counter(segment.name for segment in sample.segments if segment.name in STUFF)
        assert max(stuff.values(), default=1) == 1


def test_what_makes_it_hard_occurs(samples):
    names = Counter(segment.name for sample in samples for segment in sample.segments)
    assert min(names[name] for name in THINGS + STUFF) >= 5
    share = {
        "no things": np.mean([not things(sample) for sample in samples]),
        "void": np.mean([(sample.segment_map == 0).sum() > 100 for sample in samples]),
        "crowd": np.mean([any(s.iscrowd for s in sample.segments) for sample in samples]),
        "touching": np.mean([touching_of_one_class(sample) for sample in samples]),
    }
    bounds = {"no things": 0.25, "void": 0.4, "crowd": 0.25, "touching": 0.6}
    for key, most in bounds.items():
        assert 0 < share[key] < most, key
    assert 2 < np.mean([len(things(sample)) for sample in samples]) < 4


def test_things_are_neither_tiny_nor_huge(samples):
    for sample in samples:
        for index, segment in enumerate(sample.segments, start=1):
            if segment.name in THINGS and not segment.iscrowd:
                # Of the disc of the least size, 0.6 is in the image and 0.75 of that unoccluded.
                assert 0.6 * 0.75 * np.pi / 4 * 30**2 * 0.9 < (sample.segment_map == index).sum()
                assert (sample.segment_map == index).sum() < np.pi / 4 * 80**2


def test_outlines_have_the_area_of_their_disc():
    rng = np.random.default_rng(0)
    outlines = {**render.OUTLINES, "blob": render.blob(rng)}
    for name, contours in outlines.items():
        item = render.Item(
            contours=contours,
            center=np.array([80.0, 80.0]),
            size=60,
            stretch=1.2,
            angle=0.7,
            color=np.ones(3),
            pattern="plain",
            period=10,
            contrast=0,
        )
        # Antialiasing adds up to half a pixel all around.
        area = (item.coverage((160, 160)) >= 128).sum()
        assert area == pytest.approx(np.pi / 4 * 60**2, rel=0.08), name


def test_item_is_painted_where_it_is_labelled():
    rng = np.random.default_rng(0)
    light = render.Light.random(rng, (90, 120))
    item = render.Item(
        contours=render.OUTLINES["star"],
        center=np.array([100.0, 20.0]),  # reaches over two borders of the image
        size=50,
        stretch=1,
        angle=0.3,
        color=np.array([1.0, 0.0, 0.0]),
        pattern="plain",
        period=10,
        contrast=0,
    )
    canvas = np.full((90, 120, 3), 0.5, np.float32)
    render.paint(canvas, item, light)
    red = canvas[..., 0] - canvas[..., 1]
    coverage = item.coverage((90, 120))
    assert (red[coverage == 255] > 0.5).all() and (coverage == 255).sum() > 500
    assert (abs(red[coverage == 0]) < 1e-6).all()
    # Its shadow is cast away from the light, on the ground.
    y, x = np.nonzero((coverage == 0) & (canvas[..., 0] < 0.4))
    center = np.array([x.mean(), y.mean()]) - item.center
    assert center @ light.direction < 0

    outside = canvas.copy()
    render.paint(outside, replace(item, center=np.array([-200.0, 20.0])), light)
    np.testing.assert_array_equal(outside, canvas)


@pytest.mark.parametrize("name", STUFF)
def test_texture_is_an_image_that_varies(name):
    texture = render.stuff_texture(name, np.random.default_rng(0), (60, 90))
    assert texture.shape == (60, 90, 3) and texture.dtype == np.float32
    assert texture.min() >= 0 and texture.max() <= 1
    assert texture.std(axis=(0, 1)).min() > 0.01
