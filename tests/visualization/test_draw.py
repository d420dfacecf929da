import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances

from mask_former.visualization import (
    SegmentStyle,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    paint,
)
from mask_former.visualization.draw import number_instances
from mask_former.visualization.labels import write_labels

METADATA = Metadata(
    stuff_classes=["cat", "dog", "sky"],
    stuff_colors=[[200, 0, 0], [0, 200, 0], [0, 0, 200]],
    ignore_label=255,
)
CAT, DOG, SKY = (0, 0, 200), (0, 200, 0), (200, 0, 0)  # BGR
OPACITY = 0.6


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def blended(image, y, x, color):
    return (1 - OPACITY) * image[y, x].astype(float) + OPACITY * np.array(color)


def test_a_segment_is_tinted_and_the_rest_stays_bare(image):
    ids = np.zeros((60, 80), np.int32)
    ids[20:40, 30:50] = 7
    ids[50:, :] = 9  # not listed
    before = image.copy()
    picture = draw_panoptic(image, ids, [{"id": 7, "category_id": 0}], METADATA, labels=False)
    assert np.abs(picture[30, 40] - blended(image, 30, 40, CAT)).max() <= 1
    assert np.array_equal(picture[:15], image[:15])
    assert np.array_equal(picture[45:], image[45:])
    assert picture[20:40, 28:32].mean() > picture[25:35, 38:42].mean()  # a bright outline
    assert np.array_equal(image, before)


def test_large_ids_and_tensors_draw_the_same(image):
    ids = np.zeros((60, 80), np.int32)
    ids[:30] = 1
    ids[30:, :40] = 2
    infos = [{"id": 1, "category_id": 2}, {"id": 2, "category_id": 1}]
    expected = draw_panoptic(image, ids, infos, METADATA)
    large = np.array([0, 255 + 256 * 255, 2**24 - 1])[ids]
    infos = [{**infos[0], "id": 255 + 256 * 255}, {**infos[1], "id": 2**24 - 1}]
    assert np.array_equal(draw_panoptic(image, large, infos, METADATA), expected)
    assert np.array_equal(draw_panoptic(image, torch.from_numpy(large), infos, METADATA), expected)


def test_more_than_255_segments():
    # Blocks of 9 x 9 leave a pixel in the middle that no outline reaches.
    index = (np.arange(300, dtype=np.uint16) + 1).reshape(15, 20).repeat(9, 0).repeat(9, 1)
    segments = [SegmentStyle((i % 256, i // 256, 0)) for i in range(300)]
    picture = paint(np.zeros((*index.shape, 3), np.uint8), index, segments, opacity=1)
    assert np.array_equal(picture[4::9, 4::9].reshape(-1, 3), [s.color for s in segments])


def test_instances_of_a_class_get_different_shades(image):
    infos = [{"id": i, "category_id": c} for i, c in enumerate([0, 1, 0, 0, 1], start=1)]
    assert number_instances(infos) == [0, 0, 1, 2, 1]
    ids = np.arange(1, 6, dtype=np.int32).repeat(16)[None].repeat(60, 0)
    picture = draw_panoptic(np.zeros_like(image), ids, infos, METADATA, labels=False)
    assert len(np.unique(picture[30, 8::16], axis=0)) == 5
    same = draw_panoptic(
        np.zeros_like(image), ids, infos, METADATA, labels=False, shades=[0, 0, 0, 0, 0]
    )
    assert len(np.unique(same[30, 8::16], axis=0)) == 2


def test_semantic_scores_and_labels_agree_and_ignored_pixels_stay_bare(image):
    labels = np.full((60, 80), 2)
    labels[:, :40] = 1
    scores = torch.nn.functional.one_hot(torch.from_numpy(labels), 3).permute(2, 0, 1).float()
    picture = draw_semantic(image, labels, METADATA)
    assert np.array_equal(draw_semantic(image, scores, METADATA), picture)
    assert np.abs(picture[5, 5] - blended(image, 5, 5, DOG)).max() <= 1
    assert np.abs(picture[5, 75] - blended(image, 5, 75, SKY)).max() <= 1
    labels[50:] = 255
    assert np.array_equal(draw_semantic(image, labels, METADATA)[55:], image[55:])


@pytest.mark.parametrize("number", [255, 300])
def test_a_class_is_drawn_whatever_its_number(image, number):
    """255 is ignored where nothing else is said, but is a class of more than 255."""
    metadata = Metadata(stuff_classes=[f"class {i}" for i in range(number)])
    picture = draw_semantic(image, np.full((60, 80), 255), metadata, labels=False)
    assert np.array_equal(picture, image) == (number == 255)


def test_of_overlapping_instances_the_smaller_lies_on_top(image):
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 20:35, 20:35] = True
    masks[1, 5:55, 5:75] = True
    instances = Instances(
        (60, 80), pred_masks=masks, pred_classes=torch.tensor([0, 1]), scores=torch.ones(2)
    )
    picture = draw_instances(image, instances, METADATA, labels=False)
    assert np.abs(picture[27, 27] - blended(image, 27, 27, CAT)).max() <= 1
    assert np.abs(picture[45, 60] - blended(image, 45, 60, DOG)).max() <= 1


def test_of_instances_that_are_nearly_the_same_the_more_confident_is_drawn(image):
    masks = torch.zeros(3, 60, 80, dtype=torch.bool)
    masks[0, 5:55, 5:75] = True
    masks[1, 6:54, 6:74] = True  # one object, said twice
    masks[2, 20:35, 20:35] = True  # lies on it
    instances = Instances(
        (60, 80),
        pred_masks=masks,
        pred_classes=torch.tensor([1, 0, 0]),
        scores=torch.tensor([0.9, 0.01, 0.01]),
    )
    picture = draw_instances(image, instances, METADATA, labels=False)
    assert np.abs(picture[45, 60] - blended(image, 45, 60, DOG)).max() <= 1
    instances.scores = torch.tensor([0.01, 0.9, 0.01])
    without_largest = draw_instances(image, instances[[1, 2]], METADATA, labels=False)
    picture = draw_instances(image, instances, METADATA, labels=False)
    assert np.array_equal(picture[10:50, 10:70], without_largest[10:50, 10:70])


def test_nothing_predicted_gives_the_image(image):
    nothing = Instances(
        (60, 80),
        pred_masks=torch.zeros(0, 60, 80, dtype=torch.bool),
        pred_classes=torch.zeros(0, dtype=torch.int64),
        scores=torch.zeros(0),
    )
    assert np.array_equal(draw_instances(image, nothing, METADATA), image)
    assert np.array_equal(draw_panoptic(image, np.zeros((60, 80), int), [], METADATA), image)


def test_an_enlarged_picture_keeps_shapes(image):
    index = np.zeros((60, 80), np.uint8)
    index[20:40, 30:50] = 1
    index[20:40, 50:70] = 2
    segments = [SegmentStyle((255, 0, 0)), SegmentStyle((0, 255, 0))]
    picture = paint(np.zeros_like(image), index, segments, scale=2.5, opacity=1)
    assert picture.shape == (150, 200, 3)
    # Without the outline, which is white.
    blue = (picture[..., 0] > 0).sum() - (picture[..., 1:].min(-1) > 0).sum()
    assert 0.75 * 400 * 2.5**2 < blue < 1.05 * 400 * 2.5**2
    assert picture[75, 100].tolist() == [255, 0, 0] and picture[75, 150].tolist() == [0, 255, 0]
    assert not picture[:45].any() and not picture[105:].any()


def test_sizes_that_differ_are_an_error(image):
    with pytest.raises(ValueError, match=r"\(60, 80\).*\(60, 81\)"):
        draw_panoptic(image, np.zeros((60, 81), int), [], METADATA)


def test_a_label_stands_in_the_thickest_part():
    index = np.zeros((120, 200), np.uint8)
    index[5:9, 5:195] = 1  # a long stripe, of more pixels than ...
    index[60:90, 150:170] = 1  # ... the block
    image = np.zeros((120, 200, 3), np.uint8)
    with_label = paint(image, index, [SegmentStyle(CAT, "cat")])
    without = paint(image, index, [SegmentStyle(CAT, "cat")], labels=False)
    rows, columns = np.nonzero((with_label != without).any(-1))
    assert abs(rows.mean() - 74.5) < 4 and abs(columns.mean() - 159.5) < 4


def test_a_label_without_room_is_left_out():
    index = np.ones((22, 100), np.uint8)
    index[:, 45:60] = 2
    together, alone = (np.zeros((22, 100, 3), np.uint8) for _ in range(2))
    write_labels(together, index, ["segment", "other"], [CAT, DOG], size=14)
    write_labels(alone, index, ["segment", ""], [CAT, DOG], size=14)
    assert alone.any()
    assert np.array_equal(together, alone)


def test_labels_larger_than_the_picture_do_no_harm():
    index = np.ones((6, 9), np.uint8)
    image = np.zeros((6, 9, 3), np.uint8)
    picture = paint(image, index, [SegmentStyle(CAT, "a very long name")])
    assert np.array_equal(picture, paint(image, index, [SegmentStyle(CAT)]))
    index = np.ones((90, 30), np.uint8)
    image = np.zeros((90, 30, 3), np.uint8)
    picture = paint(image, index, [SegmentStyle(CAT, "a very long name")])
    assert np.array_equal(picture, paint(image, index, [SegmentStyle(CAT)]))


def test_scores_and_crowds_show_in_the_label(image):
    ids = np.ones((60, 80), int)

    def draw(**more):
        return draw_panoptic(image, ids, [{"id": 1, "category_id": 0, **more}], METADATA)

    assert not np.array_equal(draw(score=0.5), draw(score=0.75))
    assert not np.array_equal(draw(iscrowd=1), draw(iscrowd=0))
