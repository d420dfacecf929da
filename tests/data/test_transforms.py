import random

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from mask_former.data.augmentation import LabelledImage
from mask_former.data.transforms import CategoryAreaCrop, ColorAugmentation, ResizeShortestEdge


def image_of(height, width):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return values.astype(np.uint8)


def labels_of(height, width, dtype):
    values = np.random.default_rng(1).integers(0, 256, (height // 4 + 1, width // 4 + 1))
    return values.repeat(4, 0).repeat(4, 1)[:height, :width].astype(dtype)


def augmented(augmentation, image, labels, seed):
    """Image and labels after an augmentation, the transform, the next random number."""
    np.random.seed(seed)
    sample = LabelledImage(image, labels, lambda labels: labels % 7)
    transforms = T.AugmentationList([augmentation])(sample)
    return sample, transforms, np.random.rand()


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (37, 53), (64, 64)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_resize_is_detectron2s_but_for_one_level(size, dtype):
    image, labels = image_of(*size), labels_of(*size, dtype)
    points = np.array([[0.0, 0.0], [30.0, 10.0], [60.0, 40.0]])
    arguments = ((20, 29, 37, 55, 64, 80, 101), 150, "choice")
    for seed in range(12):
        sample, transforms, following = augmented(
            ResizeShortestEdge(*arguments), image, labels, seed
        )
        expected, expected_transforms, expected_following = augmented(
            T.ResizeShortestEdge(*arguments), image, labels, seed
        )
        assert sample.image.dtype == np.uint8 and sample.labels.dtype == dtype
        assert np.array_equal(sample.labels, expected.labels)
        # In photographs, which are smoother than this noise, fewer than 1% of the values differ.
        difference = np.abs(sample.image.astype(int) - expected.image)
        assert difference.max() <= 1 and difference.mean() < 0.03
        assert np.array_equal(
            transforms.apply_coords(points.copy()), expected_transforms.apply_coords(points.copy())
        )
        assert following == expected_following


def test_a_size_of_zero_does_not_resize():
    sample, _, _ = augmented(ResizeShortestEdge(0), image_of(40, 60), None, 0)
    assert np.array_equal(sample.image, image_of(40, 60))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_crop_that_limits_a_class_is_detectron2s(dtype):
    image, labels = image_of(40, 60), labels_of(40, 60, dtype)
    arguments = ("absolute", (20, 25), 0.25, 3)
    for seed in range(20):
        sample, _, following = augmented(CategoryAreaCrop(*arguments), image, labels, seed)
        expected, _, expected_following = augmented(
            T.RandomCrop_CategoryAreaConstraint(*arguments), image, labels, seed
        )
        assert np.array_equal(sample.image, expected.image)
        assert np.array_equal(sample.labels, expected.labels)
        assert following == expected_following


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_colours_are_detectron2s(image_format):
    generator = np.random.default_rng(0)
    ours, reference = ColorAugmentation(image_format), ColorAugSSDTransform(image_format)
    changed = 0
    for seed in range(64):
        image = generator.integers(0, 256, (20, 31, 3)).astype(np.uint8)[:, :30]  # a view
        before = image.copy()
        random.seed(seed)
        expected, following = reference.apply_image(image), random.random()
        random.seed(seed)
        assert np.array_equal(ours.apply_image(image), expected)
        assert random.random() == following
        assert np.array_equal(image, before)
        changed += not np.array_equal(expected, image)
    assert changed > 50
