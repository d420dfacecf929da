import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T

from mask_former.data.targets import instance_target, panoptic_target, semantic_target

IDENTITY = T.NoOpTransform()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_semantic_target_by_hand(dtype):
    label_map = np.array([[7, 7, 2], [255, 2, 2]], dtype=dtype)
    target = semantic_target(label_map, ignore_value=255)
    assert target.labels.dtype == torch.int64
    assert target.labels.tolist() == [2, 7]
    assert target.masks.tensor.dtype == torch.bool
    assert target.masks.tensor.int().tolist() == [[[0, 0, 1], [0, 1, 1]], [[1, 1, 0], [0, 0, 0]]]
    assert target.valid.int().tolist() == [[1, 1, 1], [0, 1, 1]]


def test_semantic_target_of_ignored_pixels_only_is_empty():
    target = semantic_target(np.full((4, 5), 65535, dtype=np.int32), ignore_value=65535)
    assert target.labels.shape == (0,)
    assert target.masks.tensor.shape == (0, 4, 5)


def test_panoptic_target_by_hand():
    id_map = np.array([[9, 9, 0], [70000, 9, 300]], dtype=np.int32)
    segments = [
        {"id": 70000, "category_id": 1},
        {"id": 300, "category_id": 4, "iscrowd": 1},
        {"id": 5, "category_id": 3, "iscrowd": 0},  # cropped away
        {"id": 9, "category_id": 1, "iscrowd": 0},
    ]
    target = panoptic_target(id_map, segments)
    assert target.labels.tolist() == [1, 1]
    assert target.masks.tensor.int().tolist() == [[[0, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 1, 0]]]
    assert target.valid.int().tolist() == [[1, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize("segments", [[], [{"id": 1, "category_id": 0, "iscrowd": 1}]])
def test_panoptic_target_without_segments_is_empty(segments):
    target = panoptic_target(np.ones((4, 5), dtype=np.uint8), segments)
    assert target.labels.shape == (0,) and target.labels.dtype == torch.int64
    assert target.masks.tensor.shape == (0, 4, 5)


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def as_rle(mask, compressed=True):
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    if compressed:
        return encoded
    column_wise = np.concatenate([[0], mask.T.reshape(-1).astype(int), [2]])
    borders = np.flatnonzero(np.diff(column_wise))
    first = [0] if column_wise[1] else []
    counts = first + np.diff(np.concatenate([[0] if not first else [], borders])).tolist()
    return {"size": list(mask.shape), "counts": [int(c) for c in counts]}


@pytest.mark.parametrize(
    "transform, size",
    [
        (IDENTITY, (20, 30)),
        (T.HFlipTransform(30), (20, 30)),
        (T.CropTransform(7, 3, 12, 10), (10, 12)),
        (T.TransformList([T.CropTransform(0, 4, 30, 16), T.HFlipTransform(30)]), (16, 30)),
        (T.ResizeTransform(20, 30, 40, 60), (40, 60)),
    ],
)
def test_polygons_and_both_run_lengths_give_the_same_masks(transform, size):
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:12, 4:16] = True
    mask[1:3, 20:30] = True
    polygons = [rectangle(4, 5, 16, 12), rectangle(20, 1, 30, 3)]
    kinds = [polygons, as_rle(mask), as_rle(mask, compressed=False)]
    annotations = [{"category_id": k, "segmentation": kind} for k, kind in enumerate(kinds)]
    target = instance_target(annotations, transform, size)
    assert target.labels.tolist() == [0, 1, 2]
    expected = transform.apply_segmentation(mask.astype(np.uint8)).astype(bool)
    for got in target.masks:
        assert np.array_equal(got.numpy(), expected)


def test_uncompressed_run_lengths_of_a_mask_that_starts_in_the_corner():
    mask = np.eye(3, dtype=bool)
    annotations = [{"category_id": 0, "segmentation": as_rle(mask, compressed=False)}]
    assert np.array_equal(instance_target(annotations, IDENTITY, (3, 3)).masks.tensor[0], mask)


def test_cropped_polygons_are_cut_off_as_masks_would_be():
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 30 + 8 * np.cos(5 * angles)
    star = np.stack([50 + radius * np.cos(angles), 40 + radius * np.sin(angles)], 1).reshape(-1)
    annotations = [{"category_id": 0, "segmentation": [star.tolist()]}]
    whole = instance_target(annotations, IDENTITY, (80, 100)).masks.tensor[0].numpy()
    crop = T.CropTransform(40, 30, 33, 25)
    got = instance_target(annotations, crop, (25, 33)).masks.tensor[0].numpy()
    # COCO's rasterization rounds points left of the origin differently, by a fifth of a pixel.
    assert (got != crop.apply_segmentation(whole)).sum() <= 2
    assert 100 < got.sum() < got.size


def test_instance_target_leaves_out_crowds_and_what_was_cropped_away():
    annotations = [
        {"category_id": 3, "segmentation": [rectangle(0, 0, 4, 4)], "iscrowd": 1},
        {"category_id": 1, "segmentation": [rectangle(0, 0, 4, 4)]},
        {"category_id": 2, "segmentation": [rectangle(3, 3, 8, 8)], "iscrowd": 0},
    ]
    valid = instance_target(annotations, IDENTITY, (10, 10)).valid
    assert not valid[:4, :4].any() and valid.sum() == 100 - 16
    target = instance_target(annotations, T.CropTransform(5, 5, 5, 5), (5, 5))
    assert target.labels.tolist() == [2]
    assert target.valid.all()
    assert target.masks.tensor.sum() == 9
    target = instance_target([], IDENTITY, (5, 6))
    assert target.labels.shape == (0,) and target.masks.tensor.shape == (0, 5, 6)


def test_instance_target_leaves_the_annotations_as_they_are():
    annotations = [{"category_id": 0, "segmentation": [rectangle(0, 0, 4, 4)]}]
    instance_target(annotations, T.HFlipTransform(8), (8, 8))
    arrays = [{"category_id": 0, "segmentation": [np.array(rectangle(0.0, 0, 4, 4))]}]
    instance_target(arrays, T.HFlipTransform(8), (8, 8))
    assert annotations[0]["segmentation"] == [rectangle(0, 0, 4, 4)]
    assert arrays[0]["segmentation"][0].tolist() == rectangle(0, 0, 4, 4)
