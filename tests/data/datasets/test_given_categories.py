"""What a user says about the categories of a JSON."""

import pytest

from mask_former.data.datasets.given_categories import with_given
from mask_former.errors import UserError

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 9, "name": "sky", "isthing": 0}]


def test_colours_and_things():
    found = with_given(CATEGORIES, "x.json", ["cat", "sky"], [[1, 2, 3], [4, 5, 6]], ["cat"])
    assert found == [
        {"id": 3, "name": "cat", "isthing": 1, "color": (1, 2, 3)},
        {"id": 9, "name": "sky", "isthing": 0, "color": (4, 5, 6)},
    ]
    assert "color" not in CATEGORIES[0]  # which belong to whoever reads the file
    assert with_given(CATEGORIES, "x.json") == CATEGORIES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": ["sky", "cat"]}, r"CLASSES is \['sky', 'cat'\], but .*x.json are.*'cat', 's"),
        ({"colors": [[1, 2, 3]]}, "COLORS has 1 entries, but x.json has 2 categories: cat, sky"),
        ({"colors": [[1, 2, 3], [1]]}, r"COLORS has \[1\], but a colour is"),
        ({"things": ["dog"]}, "THINGS has 'dog', but the categories of x.json are cat, sky"),
        ({"things": ["cat", "sky"]}, "THINGS is .*, but x.json says isthing 0 of 'sky'"),
    ],
)
def test_what_contradicts_the_json(given, message):
    with pytest.raises(UserError, match=message):
        with_given(CATEGORIES, "x.json", **given)
