"""Large-scale jitter, against Detectron2's augmentations, and what the mapper makes of it."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from PIL import Image

from mask_former.config import add_mask_former_config
from mask_former.data.augmentation import build_augmentation
from mask_former.data.large_scale_jitter import NAMES
from mask_former.data.mapper import MaskFormerDatasetMapper
from tests.data.datasets.cycle import train_step
from tests.engine.tiny import NUM_CLASSES, NUM_THINGS, tiny_cfg

SIZE = 48
COLORS = [(250, 10, 30), (20, 220, 60), (40, 70, 200)]  # of the left, the middle, the right third


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_mask_former_config(cfg)
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = SIZE, 0.3, 2.0
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.MODEL.MASK_FORMER.IGNORE_VOID = True
    return cfg


@pytest.fixture
def record(tmp_path):
    """An image of three stripes: two segments, and a third that is annotated as a crowd, or in the
    label map as void."""
    ids = np.arange(3).repeat(20)[None].repeat(40, 0) + 1
    Image.fromarray(np.array(COLORS, dtype=np.uint8)[ids - 1]).save(tmp_path / "image.png")
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8)).save(
        tmp_path / "panoptic.png"
    )
    labels = np.array([0, 1, 255], dtype=np.uint8)[ids - 1]
    Image.fromarray(labels).save(tmp_path / "labels.png")
    rle = {"size": [40, 60], "counts": [20 * 40, 20 * 40, 20 * 40]}  # column by column: the middle
    left, right = [[0, 0, 20, 0, 20, 40, 0, 40]], [[40, 0, 60, 0, 60, 40, 40, 40]]
    return {
        "file_name": str(tmp_path / "image.png"),
        "height": 40,
        "width": 60,
        "pan_seg_file_name": str(tmp_path / "panoptic.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "segments_info": [{"id": k + 1, "category_id": k, "iscrowd": k // 2} for k in range(3)],
        "annotations": [
            {"category_id": 0, "segmentation": left},
            {"category_id": 1, "segmentation": rle},
            {"category_id": 2, "segmentation": right, "iscrowd": 1},
        ],
    }


@pytest.mark.parametrize("name", NAMES)
def test_equals_detectron2s_augmentations(cfg, record, name):
    """Up to the resize's rounding, padding included, whether the image gets smaller or larger."""
    cfg.INPUT.DATASET_MAPPER_NAME, cfg.INPUT.PADDING_VALUE = name, 77
    ours = MaskFormerDatasetMapper(cfg)
    theirs = T.AugmentationList(
        [
            T.RandomFlip(),
            T.ResizeScale(0.3, 2.0, SIZE, SIZE),
            T.FixedSizeCrop((SIZE, SIZE), pad_value=77, seg_pad_value=255),
        ]
    )
    image = np.asarray(Image.open(record["file_name"]))
    stripes = np.arange(3, dtype=np.uint8).repeat(20)[None].repeat(40, 0)
    padded = 0
    for seed in range(20):
        np.random.seed(seed)
        sample = ours(record)
        np.random.seed(seed)
        expected = T.AugInput(image, sem_seg=stripes)
        theirs(expected)
        assert sample["image"].dtype == torch.uint8
        found = sample["image"].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected.image).max() <= 1
        instances = sample["instances"]
        assert instances.image_size == (SIZE, SIZE)
        for label, mask in zip(instances.gt_classes, instances.gt_masks.tensor, strict=True):
            found, wanted = mask.numpy(), expected.sem_seg == label.item()
            # A polygon's border is rasterized, that of a mask resized: a column may differ.
            assert (found != wanted).any(0).sum() <= (2 if name == "coco_instance_lsj" else 0)
        void = expected.sem_seg == 255
        padded += void.any()
        assert not instances.gt_masks.tensor[:, void].any()
        assert not sample["valid"][void].any()
        assert 2 not in instances.gt_classes  # a crowd
    assert 5 < padded < 20


@pytest.mark.parametrize(
    ("kind", "name", "classes"),
    [
        ("instance", "coco_instance_lsj", NUM_THINGS),
        ("panoptic", "coco_panoptic_lsj", NUM_CLASSES),
        ("semantic", "semantic_lsj", NUM_CLASSES),
    ],
)
def test_a_training_step(shapes_root, tmp_path, kind, name, classes):
    cfg = tiny_cfg(
        tmp_path,
        DATASETS__TRAIN=(f"shapes_train_{kind}",),
        INPUT__DATASET_MAPPER_NAME=name,
        INPUT__CROP__ENABLED=False,
        INPUT__IMAGE_SIZE=64,
        MODEL__SEM_SEG_HEAD__NUM_CLASSES=classes,
        MODEL__MASK_FORMER__TEST__PANOPTIC_ON=False,
    )
    assert train_step(cfg)["image"].shape == (3, 64, 64)


def test_colour_comes_after_the_jitter(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = NAMES[0]
    without = build_augmentation(cfg, True)
    cfg.INPUT.COLOR_AUG_SSD = True
    assert len(build_augmentation(cfg, True)) == len(without) + 1


def test_for_tests_only_the_size_changes(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = NAMES[0]
    (resize,) = build_augmentation(cfg, False)
    assert isinstance(resize, T.ResizeShortestEdge)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["INPUT.MIN_SCALE", 0.0], "0 < MIN_SCALE"),
        (["INPUT.MIN_SCALE", 2.5], "48, 2.5 and 2.0"),
        (["INPUT.IMAGE_SIZE", 0], "IMAGE_SIZE of at least 1"),
        (["INPUT.CROP.ENABLED", True], "INPUT.CROP.ENABLED is True, but coco_panoptic_lsj"),
    ],
)
def test_numbers_that_make_no_sense(cfg, changes, message):
    cfg.merge_from_list(["INPUT.DATASET_MAPPER_NAME", "coco_panoptic_lsj", *changes])
    with pytest.raises(ValueError, match=message):
        build_augmentation(cfg, True)
