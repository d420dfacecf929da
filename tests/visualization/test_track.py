import numpy as np

from mask_former.visualization import ShadeTracker

CAT, DOG = 0, 1


def frame(*boxes, size=(64, 96)):
    """A map and its segments, from (category, left, right): vertical stripes."""
    ids = np.zeros(size, np.int32)
    infos = []
    for number, (category, left, right) in enumerate(boxes, start=1):
        ids[:, left:right] = number
        infos.append({"id": number, "category_id": category})
    return ids, infos


def test_instances_keep_their_shade_when_they_move_and_change_order():
    tracker = ShadeTracker()
    assert tracker.update(*frame((CAT, 0, 30), (CAT, 40, 60), (DOG, 60, 90))) == [0, 1, 0]
    assert tracker.update(*frame((DOG, 64, 94), (CAT, 36, 56), (CAT, 4, 34))) == [0, 1, 0]


def test_a_newcomer_gets_a_free_shade_and_a_leaver_gives_its_own_back():
    tracker = ShadeTracker()
    tracker.update(*frame((CAT, 0, 20), (CAT, 40, 60)))
    assert tracker.update(*frame((CAT, 70, 90), (CAT, 40, 60))) == [0, 1]
    assert tracker.update(*frame((CAT, 70, 90), (CAT, 40, 60), (CAT, 0, 20))) == [0, 1, 2]


def test_the_larger_overlap_wins():
    tracker = ShadeTracker()
    tracker.update(*frame((CAT, 0, 40), (CAT, 40, 96)))
    # The first overlaps both, the second by more; what is left goes to the other.
    assert tracker.update(*frame((CAT, 30, 80), (CAT, 0, 30))) == [1, 0]


def test_another_class_is_another_object():
    tracker = ShadeTracker()
    tracker.update(*frame((CAT, 0, 20), (CAT, 20, 40)))
    assert tracker.update(*frame((DOG, 20, 40))) == [0]


def test_empty_frames_and_a_change_of_size():
    tracker = ShadeTracker()
    assert tracker.update(*frame()) == []
    assert tracker.update(*frame((CAT, 0, 20), (CAT, 20, 40))) == [0, 1]
    assert tracker.update(*frame((CAT, 20, 40), size=(32, 96))) == [0]
