"""Dividing a data set into two parts that both have its classes."""

import random

import pytest

from mask_former.data.holding_out import divide
from mask_former.errors import UserError


def classes_in(part, classes):
    return {label for index in part for label in classes[index]}


def test_a_tenth_is_held_out_and_always_the_same():
    classes = [[0, 1]] * 100
    train, held_out = divide(range(100), classes)
    assert (len(train), len(held_out)) == (90, 10)
    assert sorted(train + held_out) == list(range(100)) and held_out != list(range(10))
    assert divide(range(100), classes) == (train, held_out)


@pytest.mark.parametrize("seed", range(20))
def test_each_class_is_in_both_parts(seed):
    """Every image has class 0; each of 12 others is in two images of 60, chosen at random."""
    rng = random.Random(seed)
    classes = [[0] for _ in range(60)]
    for label, chosen in enumerate(zip(*[iter(rng.sample(range(60), 24))] * 2, strict=True), 1):
        for index in chosen:
            classes[index].append(label)
    train, held_out = divide(range(60), classes)
    assert classes_in(train, classes) == classes_in(held_out, classes) == set(range(13))
    assert len(held_out) == 12  # twice a tenth, since no image has two of the rare classes


def test_a_class_of_one_image_is_trained_on():
    classes = [[0], [0], [0], [0, 7], [0], [0, 8]]
    train, held_out = divide(range(6), classes)
    assert {3, 5} <= set(train) and len(held_out) == 1


def test_images_without_a_class_and_those_of_their_own():
    assert [len(part) for part in divide(range(10), [[]] * 10)] == [9, 1]
    assert [len(part) for part in divide("ab", [[0], [1]])] == [1, 1]
    with pytest.raises(UserError, match="There is one image"):
        divide("a", [[0]])


def test_at_most_a_quarter_is_held_out_for_rare_classes():
    """Twenty classes of two images each: half of the images would be held out."""
    classes = [[i // 2] for i in range(40)]
    train, held_out = divide(range(40), classes)
    assert (len(train), len(held_out)) == (30, 10)
    assert classes_in(train, classes) == set(range(20))


@pytest.mark.parametrize(("count", "most"), [(2, 1), (5, 1), (9, 2), (41, 10)])
def test_a_quarter_is_rounded_down(count, most):
    assert len(divide(range(count), [[i // 2] for i in range(count)])[1]) == most


def test_frequent_classes_are_held_out_before_rare_ones():
    """Thirty classes of two images each, and one of all the others."""
    classes = [[i // 2] for i in range(60)] + [["frequent"]] * 40
    assert "frequent" in classes_in(divide(range(100), classes)[1], classes)
