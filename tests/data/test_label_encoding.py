"""From the values and colours of label files to labels."""

import numpy as np
import pytest

from mask_former.data.label_encoding import LabelEncoding, LabelImage
from mask_former.errors import UserError

RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 0), (255, 255, 255)
FILE = "labels/a.png"


def palette(*colors):
    result = np.zeros((256, 3), np.uint8)
    result[: len(colors)] = colors
    return result


def decode(encoding, pixels, colors=None):
    image = LabelImage(pixels, None if colors is None else palette(*colors))
    labels = encoding.decode(image, FILE)
    assert labels.shape == pixels.shape[:2]
    return labels.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values(dtype):
    encoding = LabelEncoding("values", {0: 255, 7: 0, 9: 1})
    assert decode(encoding, np.array([[0, 7], [9, 9]], dtype)) == [[255, 0], [1, 1]]


def test_values_of_16_bits():
    encoding = LabelEncoding("auto", {1000: 0, 65535: 255})
    assert decode(encoding, np.array([[1000, 65535]], np.uint16)) == [[0, 255]]


def test_labels_beyond_a_byte():
    encoding = LabelEncoding("values", {**{v: v for v in range(300)}, 65535: 65535})
    assert decode(encoding, np.array([[299, 65535]], np.uint16)) == [[299, 65535]]


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (np.array([[1, 4, 0, 200]], np.uint8), "4, 200"),
        (np.array([[-1, 70000, 0]], np.int32), "-1, 70000"),
        (np.array([[0, 65535]], np.uint16), "65535"),
    ],
)
def test_values_without_a_meaning_are_named(pixels, named):
    with pytest.raises(UserError, match=f"{FILE} holds the values {named}, .* values 0, 1, 255"):
        LabelEncoding("auto", {0: 0, 1: 1, 255: 255}).decode(LabelImage(pixels), FILE)


@pytest.mark.parametrize(
    ("values", "expected"), [({0: 0, 1: 1}, [[1, 0]]), ({0: 0, 255: 1}, [[1, 0]])]
)
def test_black_and_white_of_one_bit(values, expected):
    assert decode(LabelEncoding("values", values), np.array([[True, False]])) == expected


def test_colors():
    encoding = LabelEncoding("colors", {255: 255}, {RED: 0, GREEN: 1, BLACK: 255})
    pixels = np.array([[RED, BLACK], [GREEN, RED]], np.uint8)
    assert decode(encoding, pixels) == [[0, 255], [1, 0]]
    with_alpha = np.concatenate([pixels, np.full((2, 2, 1), 9, np.uint8)], axis=2)
    assert decode(encoding, with_alpha) == [[0, 255], [1, 0]]


def test_colors_of_a_palette():
    encoding = LabelEncoding("colors", {255: 255}, {RED: 0, GREEN: 1})
    assert decode(encoding, np.array([[2, 0, 2]], np.uint8), [RED, WHITE, GREEN]) == [[1, 0, 1]]


def test_colors_without_a_meaning_are_named():
    encoding = LabelEncoding("colors", {255: 255}, {RED: 0, GREEN: 1})
    message = r"a.png holds the colours \(0, 0, 0\), \(255, 255, 255\), which no class has"
    with pytest.raises(UserError, match=message):
        decode(encoding, np.array([[RED, WHITE, BLACK, GREEN]], np.uint8))
    with pytest.raises(UserError, match=r"holds the colours \(255, 255, 255\)"):
        decode(encoding, np.array([[1]], np.uint8), [RED, WHITE])


def test_auto_takes_values_of_one_channel_and_colors_of_three():
    encoding = LabelEncoding("auto", {0: 0, 1: 1, 255: 255}, {RED: 0, GREEN: 1})
    assert decode(encoding, np.array([[1, 0, 255]], np.uint8)) == [[1, 0, 255]]
    assert decode(encoding, np.array([[GREEN, RED]], np.uint8)) == [[1, 0]]


def test_grey_that_was_saved_as_colours():
    encoding = LabelEncoding("auto", {0: 0, 3: 1})
    assert decode(encoding, np.array([[(3, 3, 3), (0, 0, 0)]], np.uint8)) == [[1, 0]]
    # Of two channels the second is transparency.
    assert decode(encoding, np.array([[(3, 255), (0, 0)]], np.uint8)) == [[1, 0]]
    with pytest.raises(UserError, match="a.png has colours, where numbers are expected.*COLORS"):
        decode(encoding, np.array([[RED]], np.uint8))


def test_a_palette_whose_colours_are_those_of_other_classes():
    """Programs that choose the palette by themselves number the colours as they occur."""
    encoding = LabelEncoding("auto", {0: 0, 1: 1}, {RED: 0, GREEN: 1})
    pixels = np.array([[0, 1]], np.uint8)
    assert decode(encoding, pixels, [RED, GREEN]) == [[0, 1]]
    # Colours that are nobody's are for the eye only.
    assert decode(encoding, pixels, [BLACK, WHITE]) == [[0, 1]]
    with pytest.raises(UserError, match=r"index 0 have the colour \(0, 128, 0\).*values or col"):
        decode(encoding, pixels, [GREEN, RED])
    # An entry that no pixel has does not matter.
    assert decode(encoding, pixels * 0, [RED, RED]) == [[0, 0]]


def test_grey_files_where_colours_are_asked_for():
    encoding = LabelEncoding("colors", {255: 255}, {RED: 0})
    with pytest.raises(UserError, match="a.png is grey and has no palette, but ENCODING is colors"):
        decode(encoding, np.array([[0]], np.uint8))


def test_numbers_that_are_not_whole():
    with pytest.raises(UserError, match="a.png: labels are whole numbers, but these are float32"):
        decode(LabelEncoding("auto", {0: 0}), np.array([[0.5]], np.float32))


def test_plain():
    assert LabelEncoding("values", {0: 0, 1: 1, 255: 255}).is_plain
    assert not LabelEncoding("auto", {0: 0, 1: 1, 255: 255}).is_plain
    assert not LabelEncoding("values", {1: 0, 255: 255}).is_plain
