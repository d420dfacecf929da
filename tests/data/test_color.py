import random

import numpy as np
import pytest
from detectron2.projects.point_rend import ColorAugSSDTransform

from mask_former.data.color import ColorAugmentation


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_equals_detectron2s_under_the_same_random_numbers(image_format):
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
