import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mask_former.data.coco_format import (
    decode_ids,
    encode_ids,
    segmentation,
    shape_info,
)


def decode(encoded, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(encoded, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(encoded, *shape))
    return coco_mask.decode(encoded).astype(bool)


def test_ids_are_base_256_red_first():
    ids = np.array([[0, 255, 256, 1 + 2 * 256 + 3 * 65536]])
    assert encode_ids(ids).tolist() == [[[0, 0, 0], [255, 0, 0], [0, 1, 0], [1, 2, 3]]]


def test_ids_survive_the_way_to_colours():
    ids = np.random.default_rng(0).integers(0, 2**24, (7, 9))
    ids[0, :3] = 0, 2**24 - 1, 2**23
    assert np.array_equal(decode_ids(encode_ids(ids)), ids)


def test_area_and_box():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 4:8] = True
    mask[4, 2] = True
    assert shape_info(mask) == {"area": 9, "bbox": [2, 1, 6, 4]}


def test_polygon_runs_along_the_edges_of_pixels():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    (polygon,) = segmentation(mask, iscrowd=False)
    corners = {tuple(corner) for corner in np.reshape(polygon, (-1, 2)).tolist()}
    assert corners == {(2, 1), (3, 1), (3, 2), (2, 2)} and len(polygon) == 8


def test_hole_needs_rle():
    ring = np.pad(np.pad(np.zeros((1, 1), bool), 1, constant_values=True), 1)
    encoded = segmentation(ring, iscrowd=False)
    assert isinstance(encoded, dict) and isinstance(encoded["counts"], str)
    np.testing.assert_array_equal(decode(encoded, ring.shape), ring)


def test_crowd_is_rle():
    assert isinstance(segmentation(np.ones((3, 3), bool), iscrowd=True), dict)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("smooth", [False, True])
def test_decodes_to_the_same_mask(density, smooth):
    rng = np.random.default_rng(0)
    polygons = 0
    for _ in range(60):
        noise = rng.standard_normal((23, 31))
        if smooth:
            noise = cv2.GaussianBlur(noise, (0, 0), 2.5)
        mask = noise > np.quantile(noise, 1 - density)
        encoded = segmentation(mask, iscrowd=False)
        polygons += isinstance(encoded, list)
        np.testing.assert_array_equal(decode(encoded, mask.shape), mask)
    # Dense noise nearly always has holes.
    assert polygons > 0 or (density == 0.4 and not smooth)
