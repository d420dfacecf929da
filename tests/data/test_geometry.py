"""Run lengths and coordinates, checked before pycocotools sees them."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from mask_former.data.geometry import check_run_lengths, check_size, mask_area, mask_box
from mask_former.errors import UserError

SIZE = (20, 30)


def check(counts, size=SIZE):
    return check_run_lengths({"size": list(SIZE), "counts": counts}, size, lambda: "annotation 4")


def encoded(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_what_pycocotools_writes_is_accepted(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(SIZE) < share
        assert check(encoded(mask)) == check(encoded(mask).decode()) == mask.any()
        runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=2, append=2)))
        assert check(([0] if mask[0, 0] else []) + runs.tolist()) == mask.any()


@pytest.mark.parametrize(
    "counts",
    [[599], [601], [810, 30], [700, -100], [300.0, 300], ["600"], [], None, "", "5", 5, b"\xff"]
    + [[2**63], [2**62] * 4, [True] * 600, "o" * 40, "\u00fc"],
)
def test_run_lengths_that_do_not_cover_the_image(counts):
    with pytest.raises(UserError, match="annotation 4: the counts of its run lengths"):
        check(counts)


def test_compressed_run_lengths_of_another_image():
    mask = np.zeros((20, 31), dtype=bool)
    mask[5:8, 3:9] = True
    with pytest.raises(UserError, match="cover 620 pixels, but its image has 20 x 30 = 600"):
        check(encoded(mask))
    for length in range(len(encoded(mask))):
        with pytest.raises(UserError):
            check(encoded(mask)[:length])


@pytest.mark.parametrize("size", [None, [20], [20.0, 30.0], [30, 20], ["20", "30"], 5])
def test_another_size(size):
    with pytest.raises(UserError, match="annotation 4: the size of its run lengths"):
        check_run_lengths({"size": size, "counts": [600]}, SIZE, lambda: "annotation 4")


def test_areas_and_boxes():
    polygons = [
        [2.0, 3.0, 8.0, 3.0, 8.0, 9.0, 2.0, 9.0],
        [20.0, 3.0, 22.0, 3.0, 22.0, 9.0, 20.0, 9.0],
    ]
    assert mask_area(polygons, SIZE) == 36 + 12 and mask_box(polygons, SIZE) == [2, 3, 20, 6]
    runs = {"size": list(SIZE), "counts": [40, 20, 540]}
    assert mask_area(runs, SIZE) == 20 and mask_box(runs, SIZE) == [2, 0, 1, 20]


@pytest.mark.parametrize(
    "size", [(0, 5), (5, -1), (5.5, 5), ("5", 5), (None, 5), (True, 5), (10**6, 5)]
)
def test_sizes_that_no_image_has(size):
    with pytest.raises(UserError, match="image 3: its (height|width)"):
        check_size(*size, "image 3")
    assert check_size(1, 2000, "image 3") == (1, 2000)
