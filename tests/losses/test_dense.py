"""Losses at all pixels against those of masks that are upsampled first, and numerically."""

import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mask_former.losses import dense
from mask_former.losses.dense import ALL_PIXELS, Upsampling
from mask_former.losses.mask import DiceLoss, FocalLoss, paired_losses, pairwise_losses
from mask_former.structures import Matching, Prediction, Target

LOSSES = [partial(paired_losses, [FocalLoss(0.3, 1.5), DiceLoss()])]


@pytest.fixture(params=[(24, 36), (18, 18), (23, 36)], ids=["x4", "x3 and x2", "any size"])
def size(request):
    """Of the images; the masks' is (6, 9)."""
    return request.param


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(1)
    return (2 * torch.randn(7, 6, 9, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture(params=[False, True], ids=["all", "valid"])
def targets(request, size):
    """Of two images, with two segments and one."""
    generator = torch.Generator().manual_seed(2)
    return [
        Target(
            torch.zeros(n, dtype=torch.int64),
            torch.rand(n, *size, generator=generator) < 0.4,
            torch.rand(*size, generator=generator) < 0.6 if request.param else None,
        )
        for n in (2, 1)
    ]


# Seven masks, of two images with three segments.
IMAGE = torch.tensor([0, 0, 1, 0, 0, 1, 1])
MATCHING = Matching(torch.zeros(7), IMAGE, torch.arange(7), torch.tensor([0, 1, 2, 0, 1, 2, 2]))


def reference(logits, targets):
    """One mask after the other."""
    masks = torch.cat([target.masks for target in targets])
    values = []
    for x, image, segment in zip(logits, IMAGE.tolist(), MATCHING.segment.tolist(), strict=True):
        x = F.interpolate(x[None, None], size=masks.shape[-2:], mode="bilinear").flatten(1)
        valid = targets[image].valid
        valid = None if valid is None else valid.flatten()
        row = LOSSES[0](x, masks[segment].flatten()[None], valid)
        values.append(torch.cat(row))
    return torch.stack(values, 1)


@pytest.mark.parametrize("chunk", [1, 2000, 1 << 20])
def test_equal_the_losses_of_the_upsampled_masks(logits, targets, chunk, monkeypatch):
    monkeypatch.setitem(dense._CHUNK_PIXELS, "cpu", chunk)
    weights = torch.linspace(-1, 2, 14, dtype=torch.float64).view(2, 7)
    results = []
    for values in (
        ALL_PIXELS.paired(LOSSES, logits, targets, MATCHING),
        reference(logits, targets),
    ):
        (gradient,) = torch.autograd.grad((values * weights).sum(), logits)
        results.append((values, gradient))
    torch.testing.assert_close(*results)


def test_gradient_is_numerically_right(logits, targets):
    assert torch.autograd.gradcheck(
        lambda x: ALL_PIXELS.paired(LOSSES, x, targets, MATCHING), (logits,), fast_mode=True
    )


def test_an_image_without_valid_pixels_has_no_gradient(logits, targets):
    if targets[1].valid is None:
        targets = [Target(t.labels, t.masks, torch.ones_like(t.masks[0])) for t in targets]
    targets[1].valid[:] = False
    values = ALL_PIXELS.paired(LOSSES, logits, targets, MATCHING)
    values.sum().backward()
    of_image = IMAGE == 1
    assert values[:, of_image].abs().max() == logits.grad[of_image].abs().max() == 0
    assert logits.grad[~of_image].abs().amax((1, 2)).min() > 0


def test_no_mask_has_a_gradient_of_zeros():
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    target = Target(none, torch.zeros(0, 16, 16, dtype=torch.bool))
    values = ALL_PIXELS.paired(LOSSES, logits, [target], Matching(none, none, none, none))
    assert values.shape == (2, 0)
    values.sum().backward()
    assert logits.grad.shape == (0, 4, 4)


def test_in_inference_mode(logits, targets):
    with torch.inference_mode():
        values = ALL_PIXELS.paired(LOSSES, logits, targets, MATCHING)
    torch.testing.assert_close(values, reference(logits, targets).detach())


class Kept:
    """A tensor as autograd keeps it, for as long as it does."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_nothing_of_full_resolution_is_kept_for_the_gradients(logits, targets, monkeypatch):
    monkeypatch.setitem(dense._CHUNK_PIXELS, "cpu", 1)  # one mask at a time
    kept, most = weakref.WeakSet(), 0

    def pack(tensor):
        nonlocal most
        box = Kept(tensor)
        kept.add(box)
        most = max(most, sum(x.tensor.numel() for x in kept))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        values = ALL_PIXELS.paired(LOSSES, logits, targets, MATCHING)
    assert values.requires_grad
    # In the end, one gradient a loss at the masks' own resolution; meanwhile, less than if two
    # masks were worked on at a time.
    assert sum(x.tensor.numel() for x in kept) == 2 * logits.numel()
    assert most < 2 * 12 * targets[0].masks[0].numel()


def test_costs_are_at_the_masks_resolution_with_the_nearest_pixel_of_a_segment(targets):
    masks = [torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    losses = partial(pairwise_losses, [FocalLoss(), DiceLoss()])
    target = targets[0]
    height, width = target.masks.shape[-2:]
    rows, columns = torch.arange(6) * height // 6, torch.arange(9) * width // 9
    segments = target.masks[:, rows][:, :, columns].flatten(1)
    valid = None if target.valid is None else target.valid[rows][:, columns].flatten()
    expected = torch.stack([losses(x.flatten(1), segments, valid) for x in masks], 1)
    predictions = [Prediction(torch.zeros(1, 4, 2), x[None]) for x in masks]
    torch.testing.assert_close(ALL_PIXELS.pairwise(losses, predictions, 0, target), expected)


@pytest.mark.parametrize(
    "new_size", [(20, 28), (15, 14), (5, 7), (35, 49), (21, 28), (4, 9)], ids=lambda x: f"{x}"
)
def test_upsampling(new_size):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    upsampling = Upsampling((5, 7), new_size)
    expected = F.interpolate(masks[:, None], size=new_size, mode="bilinear")[:, 0]
    threshold = 0.3
    # The same pixels in the same, unknown order: those of a region are where they should be.
    inside = upsampling.flatten(expected > threshold).bool()
    upsampled = upsampling.upsample(masks)
    assert upsampled.shape == inside.shape and inside.equal(upsampled > threshold)
    torch.testing.assert_close(upsampled.sort(1).values, expected.flatten(1).sort(1).values)
    there, back = (torch.autograd.grad(x.square().sum(), masks)[0] for x in (upsampled, expected))
    torch.testing.assert_close(there, back)


def test_many_masks_in_float32_are_as_exact_as_one():
    """A backend's fast convolution may mix what is far away into a pixel."""
    masks = torch.randn(20, 12, 12, generator=torch.Generator().manual_seed(3))
    masks[:, 6, 6] = 1e4
    exact = Upsampling((12, 12), (48, 48)).upsample(masks.double())
    near = exact.abs() < 3
    assert near.float().mean() > 0.8
    found = Upsampling((12, 12), (48, 48)).upsample(masks)
    torch.testing.assert_close(found[near].double(), exact[near], atol=2e-6, rtol=0)
