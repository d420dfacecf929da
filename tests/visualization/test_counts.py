import numpy as np
from detectron2.data import Metadata

from mask_former.visualization import draw_counts

METADATA = Metadata(name="x", thing_classes=["cat", "dog"], thing_colors=[[255, 0, 0], [0, 0, 255]])


def drawn(counts, height=200, width=300):
    picture = np.full((height, width, 3), 128, dtype=np.uint8)
    draw_counts(picture, counts, METADATA)
    return picture


def rows(picture):
    return np.flatnonzero((picture != 128).any(axis=(1, 2)))


def test_a_line_for_each_class_with_objects():
    one, both = drawn({0: 3, 1: 0}), drawn({0: 3, 1: 12})
    assert np.array_equal(both[: rows(one).max() + 1], one[: rows(one).max() + 1])
    assert len(rows(both)) == 2 * len(rows(one)) and rows(both).max() < 60
    assert (drawn({0: 0, 1: 0}) == 128).all()
    # The line has a dark shade of the class's colour, red.
    dark = one[rows(one).mean().astype(int), 4].astype(int)
    assert dark[2] > dark[0] and dark.max() < 100


def test_numbers_differ_and_what_does_not_fit_is_left_out():
    assert not np.array_equal(drawn({0: 3}), drawn({0: 8}))
    assert (drawn({0: 3}, 6, 6) == 128).all()
