import numpy as np
import pytest
from detectron2.data import transforms as T

from mask_former.data.augmentation import LabelledImage
from mask_former.data.resizing import CategoryAreaCrop, FastResize, ResizeAndCrop

SIZES = [(40, 60), (60, 40), (37, 53), (64, 64)]


def image_of(height, width):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return values.astype(np.uint8)


def labels_of(height, width, dtype):
    values = np.random.default_rng(1).integers(0, 256, (height // 4 + 1, width // 4 + 1))
    return values.repeat(4, 0).repeat(4, 1)[:height, :width].astype(dtype)


def augmented(augmentations, image, labels, seed):
    """Image and labels after Detectron2's augmentations, the next random number, the transform."""
    np.random.seed(seed)
    sample = LabelledImage(image, labels, lambda labels: labels % 7)
    transforms = T.AugmentationList(augmentations)(sample)
    return sample, np.random.rand(), transforms


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize(
    "crop",
    [
        T.RandomCrop("absolute", (30, 44)),
        T.RandomCrop("relative_range", (0.3, 0.3)),
        T.RandomCrop("absolute_range", (10, 90)),
        CategoryAreaCrop("absolute", (20, 25), 0.25, 3),
    ],
)
def test_equals_one_after_the_other(size, dtype, crop):
    """Bit for bit, whether the image becomes smaller or larger than it is or than the crop."""
    image, labels = image_of(*size), labels_of(*size, dtype)
    resize = T.ResizeShortestEdge((20, 29, 40, 55, 64, 80, 101), 150, "choice")
    plain_crop = crop
    if isinstance(crop, CategoryAreaCrop):
        plain_crop = T.RandomCrop_CategoryAreaConstraint("absolute", (20, 25), 0.25, 3)
    for seed in range(20):
        expected, next_expected, _ = augmented([resize, plain_crop], image, labels, seed)
        got, next_got, _ = augmented([ResizeAndCrop(resize, crop)], image, labels, seed)
        assert np.array_equal(got.image, expected.image)
        assert np.array_equal(got.labels, expected.labels) and got.labels.dtype == dtype
        assert next_got == next_expected


def test_coordinates_follow():
    image = image_of(40, 60)
    resize, crop = T.ResizeShortestEdge(80, 150), T.RandomCrop("absolute", (30, 44))
    points = np.array([[0.0, 0.0], [30.0, 10.0], [60.0, 40.0]])
    _, _, expected = augmented([resize, crop], image, None, 0)
    _, _, got = augmented([ResizeAndCrop(resize, crop)], image, None, 0)
    assert np.array_equal(got.apply_coords(points.copy()), expected.apply_coords(points.copy()))


def test_a_size_of_zero_only_crops():
    image = image_of(40, 60)
    got, _, transforms = augmented(
        [ResizeAndCrop(T.ResizeShortestEdge(0), T.RandomCrop("absolute", (30, 44)))], image, None, 0
    )
    crop = transforms.transforms[0].crop
    assert np.array_equal(got.image, image[crop.y0 : crop.y0 + 30, crop.x0 : crop.x0 + 44])


@pytest.mark.parametrize("cropped", [False, True])
def test_fast_resize_differs_by_one_level_and_not_in_labels(cropped):
    image, labels = image_of(64, 90), labels_of(64, 90, np.uint8)
    crop = [T.RandomCrop("absolute", (30, 44))]
    differ = 0
    for size in (32, 41, 64, 77, 100):
        exact, fast = (resize(size, 200) for resize in (T.ResizeShortestEdge, FastResize))
        expected, _, _ = augmented([exact, *crop * cropped], image, labels, 0)
        fast = [ResizeAndCrop(fast, *crop)] if cropped else [fast]
        got, _, _ = augmented(fast, image, labels, 0)
        assert np.array_equal(got.labels, expected.labels)
        assert got.image.dtype == np.uint8 and got.image.shape == expected.image.shape
        difference = np.abs(got.image.astype(int) - expected.image)
        assert difference.max() <= 1 and difference.mean() < 0.03
        differ += difference.any()
    assert differ  # or the key and its warning could go
