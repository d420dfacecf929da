import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from PIL import Image

from tests.data.annotated import CLASSES, HEIGHT, WIDTH, label_map, mapper

PANOPTIC = ("mask_former_panoptic", "detr_panoptic")
TRAINED = ("mask_former_semantic", "mask_former_instance", *PANOPTIC)


def masks_by_label(sample):
    instances = sample["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_classes.dtype == torch.int64
    assert instances.image_size == tuple(sample["image"].shape[1:])
    masks = instances.gt_masks.tensor
    assert masks.dtype == torch.bool and masks.shape[1:] == sample["image"].shape[1:]
    assert len(set(instances.gt_classes.tolist())) == len(masks)
    return dict(zip(instances.gt_classes.tolist(), masks.numpy(), strict=True))


@pytest.mark.parametrize("name", TRAINED)
def test_unchanged_image_and_its_segments(cfg, record, name):
    sample = mapper(cfg, name)(record)
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, HEIGHT, WIDTH)
    expected = (1, 4) if name == "mask_former_instance" else (0, 1, 3, 4)
    masks = masks_by_label(sample)
    assert sorted(masks) == sorted(expected)
    for label in expected:
        assert np.array_equal(masks[label], label_map() == label)
    kept = {"file_name", "image_id", "height", "width", "image", "instances"}
    if name == "mask_former_semantic":
        kept.add("sem_seg")
        assert sample["sem_seg"].dtype == torch.int64
        assert np.array_equal(sample["sem_seg"], label_map())
    assert set(sample) == kept
    assert (sample["height"], sample["width"], sample["image_id"]) == (HEIGHT, WIDTH, 17)


def test_segments_keep_the_order_of_the_annotation(cfg, record):
    for name, expected in (
        ("mask_former_semantic", [0, 1, 3, 4]),
        ("mask_former_panoptic", [4, 1, 0, 3]),
        ("mask_former_instance", [4, 1]),
    ):
        assert mapper(cfg, name)(record)["instances"].gt_classes.tolist() == expected


@pytest.mark.parametrize("name", TRAINED)
def test_masks_follow_the_image_through_crop_and_flip(cfg, record, name):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "relative_range", [0.4, 0.4]
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.SIZE_DIVISIBILITY = 16
    train = mapper(cfg, name)
    if name == "detr_panoptic":  # its scales blur the image; leave the final resize and the flip
        train.augmentations.augs.pop(1)
    sizes = set()
    for seed in range(20):
        np.random.seed(seed)
        sample = train(record)
        masks = masks_by_label(sample)
        red = sample["image"][0].numpy()
        inside = sample["image"][2].numpy() == 255  # elsewhere: padding
        sizes.add((int(inside.any(1).sum()), int(inside.any(0).sum())))
        for label in (1, 4) if name == "mask_former_instance" else (0, 1, 3, 4):
            expected = inside & (red == 50 * label)
            assert (label in masks) == expected.any()
            assert np.array_equal(masks.get(label, expected), expected)
    assert len(sizes) > 5 or name == "detr_panoptic"


def test_padding(cfg, record):
    cfg.INPUT.SIZE_DIVISIBILITY = 20
    for name in TRAINED:
        sample = mapper(cfg, name)(record)
        assert sample["image"].shape == (3, 40, 40)
        assert (sample["image"][:, HEIGHT:] == 128).all()
        assert (sample["image"][:, :, WIDTH:] == 128).all()
        masks = sample["instances"].gt_masks.tensor
        assert not masks[:, HEIGHT:].any() and not masks[:, :, WIDTH:].any()
        if name == "mask_former_semantic":
            assert (sample["sem_seg"][HEIGHT:] == 255).all()
            assert (sample["sem_seg"][:, WIDTH:] == 255).all()


@pytest.mark.parametrize("name", TRAINED)
def test_which_pixels_are_valid(cfg, record, name):
    cfg.MODEL.MASK_FORMER.IGNORE_VOID = True
    cfg.INPUT.SIZE_DIVISIBILITY = 20
    valid = mapper(cfg, name)(record)["valid"]
    # Of the instances nothing is known to be missing.
    annotated = np.ones((HEIGHT, WIDTH), dtype=bool)
    if name != "mask_former_instance":
        annotated = label_map() != 255
    assert valid.dtype == torch.bool and valid.shape == (40, 40)
    assert np.array_equal(valid[:HEIGHT, :WIDTH], annotated)
    assert valid.sum() == annotated.sum()


@pytest.mark.parametrize("name", ["mask_former_semantic", "mask_former_panoptic"])
def test_crop_limits_the_area_of_classes_not_of_segments(cfg, record, name):
    """The left half is one class in four segments; a crop inside it is refused."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for k in range(4):
        ids[6 * k : 6 * k + 6, : WIDTH // 2] = k + 1
    ids[:, WIDTH // 2 :] = 5
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1)).save(record["pan_seg_file_name"])
    Image.fromarray((ids == 5).astype(np.uint8)).save(record["sem_seg_file_name"])
    record["segments_info"] = [{"id": k, "category_id": int(k == 5)} for k in range(1, 6)]
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [HEIGHT, WIDTH // 2]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    train = mapper(cfg, name)
    for seed in range(20):
        np.random.seed(seed)
        masks = train(record)["instances"]
        of_right = masks.gt_masks.tensor[masks.gt_classes == 1].sum() / (HEIGHT * WIDTH // 2)
        assert 0.25 < of_right < 0.75


def test_void_pixels_do_not_count_as_a_class_in_the_limit(cfg, record):
    labels = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    labels[:, 10:14], labels[:, 22:26] = 0, 1
    Image.fromarray(labels).save(record["sem_seg_file_name"])
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [HEIGHT, 24]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    train = mapper(cfg, "mask_former_semantic")
    for seed in range(10):
        np.random.seed(seed)
        assert train(record)["instances"].gt_classes.tolist() == [0, 1]


def test_more_segments_than_a_byte_can_number(cfg, record):
    ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 3 * 7000
    coded = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
    Image.fromarray(coded.astype(np.uint8)).save(record["pan_seg_file_name"])
    segments = [{"id": 7000 * k, "category_id": k % 5} for k in range(1, HEIGHT * WIDTH // 3)]
    record["segments_info"] = segments
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [24, 36]
    instances = mapper(cfg, "mask_former_panoptic")(record)["instances"]
    assert instances.gt_classes.tolist() == [segment["category_id"] for segment in segments]
    for mask, segment in zip(instances.gt_masks.tensor, segments, strict=True):
        assert np.array_equal(mask, ids == segment["id"])


@pytest.mark.parametrize("name", TRAINED)
def test_images_without_segments(cfg, record, name):
    void = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    Image.fromarray(void).save(record["sem_seg_file_name"])
    Image.fromarray(np.stack([0 * void] * 3, -1)).save(record["pan_seg_file_name"])
    record["segments_info"] = []
    record["annotations"] = []
    cfg.INPUT.SIZE_DIVISIBILITY = 32
    sample = mapper(cfg, name)(record)
    assert len(sample["instances"]) == 0
    assert sample["instances"].gt_masks.tensor.shape == (0, 32, 64)
    assert sample["instances"].gt_classes.dtype == torch.int64


def test_for_tests_only_the_image_is_read(cfg, record):
    cfg.INPUT.MIN_SIZE_TEST = 48
    record["sem_seg_file_name"] = record["pan_seg_file_name"] = "is not read"
    sample = mapper(cfg, "mask_former_panoptic", is_train=False)(record)
    assert sample["image"].shape == (3, 48, 72)
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)
    assert set(sample) == (set(record) | {"image"}) - {"annotations"}


@pytest.mark.parametrize("is_train", [True, False])
def test_record_is_left_as_it_is_and_a_missing_size_is_filled_in(cfg, record, is_train):
    del record["height"], record["width"]
    before = repr(record)
    sample = mapper(cfg, "mask_former_instance", is_train)(record)
    assert repr(record) == before
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)


def test_channel_order(cfg, record):
    cfg.INPUT.MIN_SIZE_TRAIN = (2 * HEIGHT,)
    rgb = mapper(cfg, "mask_former_semantic")(record)["image"]
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(mapper(cfg, "mask_former_semantic")(record)["image"], rgb.flip(0))


def test_unknown_channel_order(cfg):
    cfg.INPUT.FORMAT = "YUV"
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'YUV'.*RGB or BGR"):
        mapper(cfg, "mask_former_semantic")


def test_grey_image_gets_three_channels(cfg, record):
    Image.fromarray(label_map().astype(np.uint8)).save(record["file_name"])
    image = mapper(cfg, "mask_former_semantic")(record)["image"]
    assert image.shape == (3, HEIGHT, WIDTH) and torch.equal(image[0], image[2])


def test_labels_of_two_bytes_and_of_a_palette(cfg, record):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 847, 65535
    labels = np.where(label_map() == 255, 65535, label_map() * 200)
    Image.fromarray(labels.astype(np.uint16)).save(record["sem_seg_file_name"])
    sample = mapper(cfg, "mask_former_semantic")(record)
    assert sample["instances"].gt_classes.tolist() == [0, 200, 600, 800]
    assert np.array_equal(sample["sem_seg"], labels)

    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = CLASSES, 255
    image = Image.fromarray(label_map().astype(np.uint8), mode="P")
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(record["sem_seg_file_name"])
    assert np.array_equal(mapper(cfg, "mask_former_semantic")(record)["sem_seg"], label_map())
