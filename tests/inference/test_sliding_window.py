"""Sliding windows: where they lie, what is averaged, and how much a model sees at once."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.errors import UserError
from mask_former.inference import SlidingWindow, sliding_window_inference
from mask_former.inference.sliding_window import at_least_a_window, labels_of_scores


@pytest.mark.parametrize(
    ("stride", "side", "starts"),
    [
        (512, 512, [0]),
        (512, 683, [0, 171]),
        (512, 1024, [0, 512]),
        (512, 1200, [0, 512, 688]),
        (320, 1200, [0, 320, 640, 688]),
        # As few as cover the side: 3 of 512 are the first to reach 1200, with gaps of 344.
        (0, 512, [0]),
        (0, 513, [0, 1]),
        (0, 1024, [0, 512]),
        (0, 1200, [0, 344, 688]),
        (0, 1537, [0, 341, 683, 1025]),
    ],
)
def test_starts(stride, side, starts):
    assert SlidingWindow(512, stride).starts(side) == starts


@pytest.mark.parametrize("stride", [0, 3, 5, 8])
def test_windows_cover_every_side_and_stay_inside(stride):
    for side in range(8, 60):
        starts = SlidingWindow(8, stride).starts(side)
        assert starts == sorted(set(starts)) and starts[0] == 0 and starts[-1] == side - 8
        covered = {pixel for start in starts for pixel in range(start, start + 8)}
        assert covered == set(range(side))
        if stride == 0:
            assert len(starts) == -(-side // 8)


def test_where_windows_overlap_their_scores_are_averaged():
    """Each window scores the number that it is; three windows of 4 on 4 x 7, by hand."""
    number = iter([1.0, 2.0, 6.0])

    def score(windows):
        return [torch.full((1, 4, 4), next(number)) for _ in windows]

    (scores,) = sliding_window_inference(score, torch.zeros(3, 4, 7), SlidingWindow(4, 2))
    # They start at 0, 2 and 3: columns 2 | 3 | 4, 5 | 6 are in windows 12 | 123 | 23 | 3.
    expected = torch.tensor([1.0, 1.0, 1.5, 3.0, 4.0, 4.0, 6.0])
    torch.testing.assert_close(scores, expected.expand(4, 7))


@pytest.mark.parametrize("window", [SlidingWindow(8, 5), SlidingWindow(8), SlidingWindow(8, 8, 3)])
def test_scores_of_single_pixels_are_those_of_the_whole_image(window):
    image = torch.rand(3, 21, 34)
    seen = []

    def score(windows):
        seen.append(len(windows))
        assert windows.shape[1:] == (3, 8, 8)
        return windows[:, :2] * 2

    torch.testing.assert_close(sliding_window_inference(score, image, window), image[:2] * 2)
    places = len(window.starts(21)) * len(window.starts(34))
    assert sum(seen) == places and max(seen) == window.batch_size


def test_a_small_image_is_enlarged_to_a_window():
    image = torch.randint(256, (3, 30, 50), dtype=torch.uint8)
    enlarged = at_least_a_window(image, 64)
    assert enlarged.shape == (3, 64, 106)  # 106.67, rounded down
    expected = F.interpolate(image[None].float(), size=(64, 106), mode="bilinear")[0]
    torch.testing.assert_close(enlarged, expected)
    assert at_least_a_window(image, 30) is image
    scores = sliding_window_inference(lambda x: x, image, SlidingWindow(64, 32))
    torch.testing.assert_close(scores, expected)


def test_scores_are_summed_in_float32():
    """In bfloat16 a hundred times 1.01 is 2 off."""
    window = SlidingWindow(100, 1, 20)
    scores = sliding_window_inference(
        lambda x: x.bfloat16(), torch.full((1, 100, 300), 1.0078125), window
    )
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.full((1, 100, 300), 1.0078125))


def test_labels_are_those_of_the_scaled_scores():
    scores = torch.randn(5, 9, 7)
    scaled = F.interpolate(scores[None], size=(20, 33), mode="bilinear")[0]
    assert torch.equal(labels_of_scores(scores, (20, 33)), scaled.argmax(0))
    assert torch.equal(labels_of_scores(scores, (9, 7)), scores.argmax(0))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 0, 1), "SIZE is 0"),
        ((8, 9, 1), "STRIDE is 9.*at most .*8"),
        ((8, -1, 1), "STRIDE is -1"),
        ((8, 8, 0), "BATCH_SIZE 0"),
    ],
)
def test_numbers_that_make_no_sense(numbers, message):
    with pytest.raises(UserError, match=message):
        SlidingWindow(*numbers)
