import numpy as np
import pytest

from mask_former.visualization import make_sheet

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def plain(height, width, color):
    return np.full((height, width, 3), color, np.uint8)


def count(sheet, color):
    return int((sheet == color).all(-1).sum())


def columns_of(sheet, color):
    columns = np.flatnonzero((sheet == color).all(-1).any(0))
    return columns.min(), columns.max() + 1


def test_every_picture_is_there_in_its_column():
    rows = [[plain(40, 60, color) for color in COLORS] for _ in range(2)]
    sheet = make_sheet(rows, ["input", "ground truth", "prediction"])
    assert [count(sheet, color) for color in COLORS] == [2 * 40 * 60] * 3
    places = [columns_of(sheet, color) for color in COLORS]
    assert places[0][1] <= places[1][0] and places[1][1] <= places[2][0]
    assert all(right - left == 60 for left, right in places)


def test_pictures_are_fitted_and_keep_their_proportions():
    sheet = make_sheet([[plain(40, 20, COLORS[0]), plain(30, 60, COLORS[1])]], ["a", "b"])
    assert count(sheet, COLORS[0]) == 40 * 20
    assert count(sheet, COLORS[1]) == 30 * 60
    sheet = make_sheet([[plain(40, 20, COLORS[0])]], ["a"], cell=(50, 80))
    assert count(sheet, COLORS[0]) == 80 * 40


def test_samples_side_by_side_need_fewer_rows():
    rows = [[plain(40, 60, COLORS[0]), plain(40, 60, COLORS[1])] for _ in range(3)]
    one, two = (make_sheet(rows, ["a", "b"], across=across) for across in (1, 2))
    assert two.shape[0] < one.shape[0] and two.shape[1] > one.shape[1]
    assert count(two, COLORS[0]) == count(one, COLORS[0]) == 3 * 40 * 60


def test_titles_and_caption_are_written():
    rows = [[plain(40, 120, COLORS[0])]]
    bare, titled = make_sheet(rows, [""]), make_sheet(rows, ["input"])
    assert bare.shape[0] < titled.shape[0] and bare.shape[1] == titled.shape[1]
    captioned = make_sheet(rows, ["input"], caption="PQ 80.1")
    assert np.array_equal(captioned[: len(titled)], titled)
    added = captioned[len(titled) :]
    assert len(added) and added.min() < 128


def test_a_caption_that_is_too_long_shrinks_into_the_sheet():
    sheet = make_sheet([[plain(40, 300, COLORS[0])]], ["a"], caption="PQ 80.1 " * 6)
    stripe = sheet[-20:]
    assert (stripe[:, :3] == 255).all() and (stripe[:, -3:] == 255).all()


def test_rows_that_do_not_fit_the_titles():
    with pytest.raises(ValueError, match="row 1 has 1 pictures for 2 titles"):
        make_sheet([[plain(4, 4, 0)] * 2, [plain(4, 4, 0)]], ["a", "b"])
    with pytest.raises(ValueError, match="at least one row"):
        make_sheet([], ["a"])
