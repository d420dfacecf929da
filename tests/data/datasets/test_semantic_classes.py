"""What the classes of label maps are, and what each value and colour means."""

import pytest

from mask_former.data.datasets.class_file import Classes
from mask_former.data.datasets.semantic_classes import semantic_metadata
from mask_former.errors import UserError

NAMES = ["background", "car", "tree"]
RGB = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]


def described(names=NAMES, colors=(), values=(), ignore=(), encoding="auto", **options):
    found = semantic_metadata(Classes(names, colors, values), ignore, encoding, **options)
    return found, found["label_encoding"]


def test_a_background_that_is_a_class():
    found, encoding = described()
    assert found["stuff_classes"] == NAMES and found["ignore_label"] == 255
    assert encoding.values == {0: 0, 1: 1, 2: 2, 255: 255} and encoding.colors == {}
    assert "stuff_dataset_id_to_contiguous_id" not in found and "stuff_colors" not in found


@pytest.mark.parametrize(
    ("names", "ignore"),
    [(NAMES, ["background"]), (NAMES[1:], [0])],
    ids=["by its name", "by its value"],
)
def test_a_background_that_is_ignored_is_shifted_away(names, ignore):
    found, encoding = described(names, ignore=ignore)
    assert found["stuff_classes"] == ["car", "tree"]
    assert encoding.values == {0: 255, 1: 0, 2: 1, 255: 255}
    assert found["stuff_dataset_id_to_contiguous_id"] == {1: 0, 2: 1}


def test_values():
    found, encoding = described(values=[7, 3, 255], ignore=[0, 9])
    assert encoding.values == {7: 0, 3: 1, 255: 2, 0: 255, 9: 255}
    assert found["stuff_dataset_id_to_contiguous_id"] == {7: 0, 3: 1, 255: 2}


def test_colors():
    found, encoding = described(colors=RGB, ignore=["background", [9, 9, 9]], encoding="colors")
    assert encoding.colors == {(0, 0, 0): 255, (255, 0, 0): 0, (0, 255, 0): 1, (9, 9, 9): 255}
    assert found["stuff_colors"] == RGB[1:]
    assert "stuff_dataset_id_to_contiguous_id" not in found


def test_colours_that_are_for_drawing_only():
    found, encoding = described(colors=[[1, 1, 1]] * 3, encoding="values")
    assert encoding.colors == {} and found["stuff_colors"] == [[1, 1, 1]] * 3


@pytest.mark.parametrize(
    ("ignore", "values"),
    [([], {0: 0, 1: 1, 255: 1}), (["sky"], {0: 255, 1: 0, 255: 0})],
)
def test_binary(ignore, values):
    _, encoding = described(["sky", "crack"], ignore=ignore, encoding="binary")
    assert encoding.values == values and encoding.kind == "values"


def test_more_classes_than_a_byte_holds():
    found, encoding = described([f"class {i}" for i in range(256)])
    assert found["ignore_label"] == 65535 and encoding.values[255] == 255
    assert encoding.values[65535] == 65535
    found, _ = described([f"class {i}" for i in range(255)])
    assert found["ignore_label"] == 255


def test_an_ignored_label_that_is_given():
    found, encoding = described(ignore=[0], names=["car"], ignore_label=99)
    assert found["ignore_label"] == 99 and encoding.values == {0: 99, 1: 0, 99: 99}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": []}, "CLASSES is empty.*CLASS_FILE"),
        ({"names": ["a", "a"]}, "CLASSES has the name 'a' twice"),
        ({"names": ["a", True]}, "CLASSES has the name True, but names are text.*quotes"),
        ({"colors": RGB[:2]}, "COLORS has 2 entries, but there are 3 classes, background, car"),
        ({"values": [1]}, "LABEL_VALUES has 1 entries, but there are 3 classes"),
        ({"values": [0, 1, -2]}, "LABEL_VALUES has -2, but must be whole numbers in 0..65535"),
        ({"values": [0, 1, "2"]}, "LABEL_VALUES has '2'"),
        ({"values": [0, 1, 1]}, "The value 1 is that of class 'tree' and of class 'car'"),
        ({"values": [0, 1, 2], "ignore": [2]}, "The value 2 is that of class 'tree' and of IGNORE"),
        ({"colors": [[0, 0, 256]] + RGB[1:]}, r"COLORS has \[0, 0, 256\], but a colour is"),
        ({"colors": RGB[:2] + [[0, 0, 0]]}, r"COLORS gives class 'tree' \[0, 0, 0\].*to values"),
        ({"colors": RGB, "ignore": [[0, 0, 0]]}, r"COLORS gives class 'background' \[0, 0, 0\]"),
        ({"ignore": ["sky"]}, "IGNORE has 'sky', but the classes are background, car, tree"),
        ({"ignore": [[1, 2]]}, r"IGNORE has \[1, 2\], but a colour is"),
        ({"ignore": NAMES}, "IGNORE is .*, which leaves no class"),
        ({"encoding": "rgb"}, "ENCODING is 'rgb', but must be one of auto, values, colors, binary"),
        ({"encoding": "colors"}, "ENCODING is colors, but no colours are known: give COLORS"),
        ({"encoding": "binary"}, r"ENCODING is binary, which needs two CLASSES.*'tree'\]"),
        (
            {"names": NAMES[:2], "encoding": "binary", "values": [0, 9]},
            "ENCODING is binary.*no LABEL_VALUES",
        ),
    ],
)
def test_what_contradicts_itself(given, message):
    with pytest.raises(UserError, match=message):
        described(**given)
