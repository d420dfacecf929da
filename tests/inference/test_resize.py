"""Scaling by tiles is PyTorch's interpolation, step by step."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.inference import resize as scaling
from mask_former.inference.resize import Scaling, Sizes, Step, cut_rows, mask_tiles, scale_masks


def interpolated(masks, sizes):
    x = F.interpolate(masks[:, None], size=sizes.padded, mode="bilinear")
    x = x[..., : sizes.image[0], : sizes.image[1]]
    return F.interpolate(x, size=sizes.output, mode="bilinear")[:, 0]


def random_sizes(generator):
    """Sizes of masks, batch, image and result without any relation but that padding is cut off.

    Height and width are more than 128 together: for smaller images PyTorch rounds the positions of
    pixels in another way, and its own results differ by more than is tolerated here.
    """

    def pair(low, high):
        return tuple(torch.randint(low, high, (2,), generator=generator).tolist())

    size, padded, output = pair(1, 100), pair(65, 150), pair(65, 300)
    image = tuple(min(p, i) for p, i in zip(padded, pair(1, 150), strict=True))
    return size, Sizes(padded, image, output)


@pytest.mark.parametrize("seed", range(30))
def test_any_sizes(seed, monkeypatch):
    monkeypatch.setitem(scaling._TILE_BYTES, "cpu", 4 * 3 * 300 * (8 + seed))  # several tiles
    generator = torch.Generator().manual_seed(seed)
    size, sizes = random_sizes(generator)
    masks = 10 * torch.randn(3, *size, generator=generator)
    torch.testing.assert_close(
        scale_masks(masks, sizes), interpolated(masks, sizes), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes((30, 40), (30, 40), (30, 40)),
        Sizes((30, 40), (30, 33), (30, 33)),
        Sizes((30, 80), (30, 80), (30, 40)),
        Sizes((60, 40), (51, 40), (99, 40)),
    ],
    ids=["no step", "columns cut", "columns there and back", "rows only"],
)
def test_steps_that_leave_an_axis_as_it_is(sizes):
    masks = torch.randn(2, 30, 40)
    torch.testing.assert_close(scale_masks(masks, sizes), interpolated(masks, sizes))


def test_every_row_comes_once_and_its_inputs_are_few(monkeypatch):
    monkeypatch.setitem(scaling._TILE_BYTES, "cpu", 1)  # the least number of rows
    step = Step((400, 80), (390, 80))
    resize = Scaling((100, 20), [step], torch.device("cpu"))
    tiles = list(resize.tiles(5))
    assert [row for rows in tiles for row in range(390)[rows]] == list(range(390))
    assert all(len(range(100)[resize.inputs(rows)]) <= 4 for rows in tiles)  # 8 rows of 1/4


@pytest.mark.parametrize("masks", [torch.randn(1, 6, 5), torch.randn(3, 6, 5)], ids=["one", "some"])
def test_tiles_are_free_to_be_changed(masks):
    before = masks.clone()
    for _, tile in mask_tiles(masks, None):
        tile.zero_()
    cut_rows(masks, slice(0, 1)).zero_()
    assert torch.equal(masks, before)
