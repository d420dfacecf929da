import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from mask_former.data.label_map import LabelMapMasks, count_pixels, run_lengths


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_runs_by_hand(dtype):
    (labels,), lengths = run_lengths(np.array([[7, 7, 2], [2, 2, 7]], dtype=dtype))
    assert labels.tolist() == [7, 2, 7] and labels.dtype == dtype
    assert lengths.tolist() == [2, 3, 1]


def test_along_a_run_of_two_maps_neither_changes():
    one, two = np.array([[7, 7, 2, 2, 2, 7]]), np.array([[1, 0, 0, 0, 5, 5]], dtype=np.uint8)
    (first, second), lengths = run_lengths(one, two)
    assert first.tolist() == [7, 7, 2, 2, 7]
    assert second.tolist() == [1, 0, 0, 5, 5]
    assert lengths.tolist() == [1, 1, 2, 1, 1]


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1, 6), (9, 11)])
@pytest.mark.parametrize("num_labels", [1, 3, 1000])
def test_runs_and_counts_have_every_pixel(shape, num_labels):
    label_map = np.random.default_rng(0).integers(-1, num_labels, shape).astype(np.int32)
    (labels,), lengths = run_lengths(label_map)
    assert np.array_equal(labels.repeat(lengths), label_map.ravel())
    expected = np.unique(label_map, return_counts=True)
    for got, want in zip(count_pixels(label_map), expected, strict=True):
        assert np.array_equal(got, want)


@pytest.fixture
def masks():
    label_map = torch.tensor([[0, 3, 3, 0], [9, 3, 0, 0]], dtype=torch.uint8)
    return LabelMapMasks(label_map, torch.tensor([9, 3], dtype=torch.uint8))


def test_masks_are_those_of_the_labels(masks):
    assert isinstance(masks, BitMasks) and len(masks) == 2 and masks.image_size == (2, 4)
    assert masks.tensor.dtype == torch.bool
    assert masks.tensor.int().tolist() == [
        [[0, 0, 0, 0], [1, 0, 0, 0]],
        [[0, 1, 1, 0], [0, 1, 0, 0]],
    ]


def test_masks_do_what_bit_masks_do(masks):
    plain = BitMasks(masks.tensor)
    assert torch.equal(masks[1].tensor, plain[1].tensor)
    assert torch.equal(masks.get_bounding_boxes().tensor, plain.get_bounding_boxes().tensor)
    assert torch.equal(masks.nonempty(), plain.nonempty())
    instances = Instances((2, 4), gt_masks=masks).to("cpu")
    assert torch.equal(instances.gt_masks.tensor, plain.tensor)
    assert torch.equal(instances[[1]].gt_masks.tensor, plain[[1]].tensor)
    twice = Instances.cat([instances, instances]).gt_masks.tensor
    assert torch.equal(twice, plain.tensor.repeat(2, 1, 1))


def test_between_processes_the_map_travels(masks):
    masks = LabelMapMasks(masks.label_map.repeat(100, 100), masks.labels)
    expected = masks.tensor
    assert len(pickle.dumps(masks)) < expected.numel()
    received = pickle.loads(ForkingPickler.dumps(masks))
    assert torch.equal(received.tensor, expected)


def test_masks_elsewhere_than_on_the_cpu(masks):
    """Their shape on the meta device; the comparison by PyTorch equals NumPy's."""
    assert masks.to("meta").tensor.shape == (2, 2, 4)
    assert masks.to("meta").device.type == "meta"
    by_torch = masks.label_map == masks.labels[:, None, None]
    assert torch.equal(masks.tensor, by_torch)
