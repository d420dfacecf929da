import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from PIL import Image

from mask_former.config import add_mask_former_config
from mask_former.data.augmentation import (
    LabelledImage,
    build_augmentation,
    pad_to_multiple,
    transform_labels,
)
from mask_former.data.transforms import (
    CategoryAreaCrop,
    ColorAugmentation,
    RandomCrop,
    ResizeShortestEdge,
)
from mask_former.errors import UserError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_mask_former_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 32)
    cfg.INPUT.MAX_SIZE_TRAIN = 64
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [16, 20]
    return cfg


def image_of(height, width):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return values.astype(np.uint8)


def kinds(augmentations):
    return [getattr(a, "tfm", a).__class__ for a in T.AugmentationList(augmentations).augs]


@pytest.mark.parametrize(
    "name", ["mask_former_semantic", "mask_former_panoptic", "mask_former_instance"]
)
def test_training_resizes_crops_colours_and_flips_in_this_order(cfg, name):
    cfg.INPUT.DATASET_MAPPER_NAME = name
    cfg.INPUT.COLOR_AUG_SSD = True
    augmentations = build_augmentation(cfg, True)
    expected = [ResizeShortestEdge, RandomCrop, ColorAugmentation, T.RandomFlip]
    assert kinds(augmentations) == expected


def test_tests_resize_as_the_published_models_do(cfg):
    """By PIL, to the last bit."""
    cfg.INPUT.MIN_SIZE_TEST = 30
    sample = LabelledImage(image_of(40, 60))
    T.AugmentationList(build_augmentation(cfg, False))(sample)
    expected = Image.fromarray(image_of(40, 60)).resize((45, 30), Image.Resampling.BILINEAR)
    assert np.array_equal(sample.image, np.asarray(expected))


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (2, 3)])
@pytest.mark.parametrize("area", [0.9, 1.0])
@pytest.mark.parametrize(
    "crop", [("relative", [0.1, 0.1]), ("relative_range", [0.1, 0.1]), ("absolute", [16, 20])]
)
@pytest.mark.parametrize("name", ["mask_former_semantic", "detr_panoptic"])
def test_images_of_any_shape(cfg, name, crop, area, size):
    """A pixel is left, and DETR's enlargement makes no gigabytes of a line."""
    cfg.INPUT.DATASET_MAPPER_NAME = name
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = crop
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = area
    augmentations = T.AugmentationList(build_augmentation(cfg, True))
    for _ in range(4):
        sample = LabelledImage(image_of(*size), np.ones(size, np.uint8), lambda labels: labels)
        augmentations(sample)
        assert sample.image.shape[:2] == sample.labels.shape and min(sample.labels.shape) >= 1
        assert max(sample.labels.shape) <= 64


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("relative", [0.5, 1.5], "shares of height and width"),
        ("relative_range", [512, 512], "the least shares"),
        ("absolute", [0.5, 0.5], "height and width in pixels"),
        ("absolute", [0, 16], "height and width in pixels"),
        ("absolute_range", [32, 16], "the least and the largest side"),
        ("square", [16, 16], "but must be one of relative, "),
    ],
)
def test_crops_that_make_no_sense(cfg, kind, size, message):
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = kind, size
    with pytest.raises(UserError, match=message):
        build_augmentation(cfg, True)


@pytest.mark.parametrize("sizes", [(32,), (32, 24), (24, 28, 32)])
def test_a_range_of_sizes(cfg, sizes):
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.MIN_SIZE_TRAIN = "range", sizes
    with pytest.raises(UserError, match="the least and the largest size"):
        build_augmentation(cfg, True)


def test_what_is_switched_off_is_left_out(cfg):
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.RANDOM_FLIP = "none"
    assert kinds(build_augmentation(cfg, True)) == [ResizeShortestEdge]


def test_vertical_flip(cfg):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    flip = build_augmentation(cfg, True)[-1]
    flip.prob = 1.0
    sample = LabelledImage(image_of(4, 6))
    T.AugmentationList([flip])(sample)
    assert np.array_equal(sample.image, image_of(4, 6)[::-1])


def test_for_tests_only_the_size_changes(cfg):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 35
    sample = LabelledImage(image_of(40, 60))
    T.AugmentationList(build_augmentation(cfg, False))(sample)
    assert sample.image.shape == (20, 30, 3)
    sample = LabelledImage(image_of(40, 80))
    T.AugmentationList(build_augmentation(cfg, False))(sample)
    assert sample.image.shape == (18, 35, 3)


def test_limit_of_a_category_makes_another_crop(cfg):
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 254
    crop = build_augmentation(cfg, True)[1]
    assert isinstance(crop, CategoryAreaCrop)
    assert crop.single_category_max_area == 0.75 and crop.ignored_category == 254
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    with pytest.raises(ValueError, match="SINGLE_CATEGORY_MAX_AREA is 0.75"):
        build_augmentation(cfg, True)


def test_a_crop_of_an_unknown_type(cfg):
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "square"
    with pytest.raises(ValueError, match="INPUT.CROP.TYPE is 'square'.*absolute_range"):
        build_augmentation(cfg, is_train=True)


def test_detr_crops_half_of_the_time_before_the_resize(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "detr_panoptic"
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", [100, 200]
    augmentations = build_augmentation(cfg, True)
    assert kinds(augmentations) == [T.RandomFlip, T.RandomApply, ResizeShortestEdge]
    np.random.seed(0)
    cropped = 0
    for _ in range(40):
        sample = LabelledImage(image_of(60, 90))
        transforms = T.AugmentationList(augmentations)(sample).transforms
        assert min(sample.image.shape[:2]) in (24, 32)
        if isinstance(transforms[2], T.CropTransform):
            cropped += 1
            zoom, crop = transforms[1:3]
            assert min(zoom.new_h, zoom.new_w) in (400, 500, 600)
            assert 100 <= crop.h <= 200 and 100 <= crop.w <= 200
        else:
            assert sample.image.shape[1] == sample.image.shape[0] * 1.5
    assert 10 <= cropped <= 30  # 20 expected; 3.2 standard deviations
    cfg.INPUT.CROP.ENABLED = False
    assert kinds(build_augmentation(cfg, True)) == [T.RandomFlip, ResizeShortestEdge]


def test_labels_of_any_int32_value_survive():
    labels = np.array([[-1, 0, 255], [256, 2**24 - 1, 2**31 - 1]], dtype=np.int32)
    assert np.array_equal(transform_labels(T.HFlipTransform(3), labels), labels[:, ::-1])
    assert np.array_equal(transform_labels(T.CropTransform(1, 0, 2, 2), labels), labels[:, 1:])
    doubled = transform_labels(T.ResizeTransform(2, 3, 4, 6), labels)
    assert doubled.dtype == np.int32
    assert np.array_equal(doubled, labels.repeat(2, axis=0).repeat(2, axis=1))


def test_labels_are_resized_centre_to_centre():
    labels = np.arange(81, dtype=np.int32).reshape(9, 9) + 1000
    reduced = transform_labels(T.ResizeTransform(9, 9, 3, 3), labels)
    assert np.array_equal(reduced, labels[1::3, 1::3])


def test_colour_leaves_labels_alone():
    labels = np.arange(24, dtype=np.int32).reshape(4, 6)
    sample = LabelledImage(image_of(4, 6), labels)
    color = ColorAugmentation("RGB")
    for _ in range(8):  # each of its four changes happens half of the time
        sample.transform(color)
    assert not np.array_equal(sample.image, image_of(4, 6))
    assert np.array_equal(sample.labels, labels)


@pytest.mark.parametrize(
    "size, divisor, expected",
    [
        ((30, 40), 32, (32, 64)),
        ((70, 100), 32, (96, 128)),  # larger than the divisor: nothing is lost
        ((64, 32), 32, (64, 32)),
        ((30, 40), 0, (30, 40)),
        ((30, 40), -1, (30, 40)),
    ],
)
def test_padding_never_crops(size, divisor, expected):
    image = torch.from_numpy(image_of(*size).transpose(2, 0, 1).copy())
    padded = pad_to_multiple(image, divisor, 128)
    assert padded.dtype == torch.uint8 and padded.shape == (3, *expected)
    height, width = size
    assert torch.equal(padded[:, :height, :width], image)
    assert (padded[:, height:] == 128).all() and (padded[:, :, width:] == 128).all()
    masks = pad_to_multiple(torch.ones(2, *size, dtype=torch.bool), divisor, False)
    assert masks.dtype == torch.bool and masks.sum() == 2 * height * width
    assert pad_to_multiple(masks[:0], divisor, False).shape == (0, *expected)
