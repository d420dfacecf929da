"""Windows of token maps, against padding, rolling and reshaping one step at a time."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.backbone.windows import Windows

CPU = torch.device("cpu")
# Height, width, side of a window, shift.
GRIDS = [(8, 12, 4, 0), (8, 12, 4, 2), (7, 9, 3, 1), (10, 3, 4, 2), (2, 3, 5, 2), (2, 3, 5, 0)]


def step_by_step(x, size, shift):
    """(B, H, W, D) -> (B * M, N, D)"""
    _, h, w, d = x.shape
    x = F.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    x = x.roll((-shift, -shift), (1, 2))
    x = x.unfold(1, size, size).unfold(2, size, size)  # B, rows, columns, D, size, size
    return x.permute(0, 1, 2, 4, 5, 3).reshape(-1, size**2, d)


@pytest.mark.parametrize(("height", "width", "size", "shift"), GRIDS)
class TestWindows:
    def test_split(self, height, width, size, shift):
        windows = Windows.of(height, width, size, shift, CPU)
        x = torch.randn(2, height, width, 3)
        assert torch.equal(windows.split(x, None), step_by_step(x, size, shift))

    def test_fill_stands_at_padding(self, height, width, size, shift):
        windows = Windows.of(height, width, size, shift, CPU)
        x, fill = torch.randn(2, height, width, 3), torch.randn(3)
        expected = step_by_step(x - fill, size, shift) + fill
        torch.testing.assert_close(windows.split(x, fill), expected)

    def test_join_reverses_split(self, height, width, size, shift):
        windows = Windows.of(height, width, size, shift, CPU)
        x = torch.randn(2, height, width, 3)
        assert torch.equal(windows.join(windows.split(x, torch.ones(3))), x)

    def test_gradients(self, height, width, size, shift):
        windows = Windows.of(height, width, size, shift, CPU)
        x = torch.randn(2, height, width, 1, dtype=torch.double, requires_grad=True)
        fill = torch.randn(1, dtype=torch.double, requires_grad=True)
        torch.autograd.gradcheck(windows.split, (x, fill))
        places = windows.split(x, None).detach().requires_grad_()
        torch.autograd.gradcheck(windows.join, (places,))

    def test_mask_parts_what_were_no_neighbours(self, height, width, size, shift):
        """Tokens see each other if they are as far apart in their window as in the map."""
        windows = Windows.of(height, width, size, shift, CPU)
        if not shift:
            assert windows.mask is None
            return
        rows, columns = height + -height % size, width + -width % size
        where = torch.stack(
            torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1
        )
        where = step_by_step(where[None], size, shift)
        inside = torch.stack(torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij"), dim=-1)
        inside = inside.view(-1, 2)
        apart = where[:, :, None] - where[:, None]
        wrapped = (apart != inside[:, None] - inside).any(-1)
        assert torch.equal(windows.mask[:, 0] == -100, wrapped)
        assert torch.equal(windows.mask[:, 0] == 0, ~wrapped)


def test_no_maps():
    windows = Windows.of(7, 9, 3, 1, CPU)
    assert windows.split(torch.zeros(0, 7, 9, 2), torch.ones(2)).shape == (0, 9, 2)
    assert windows.join(torch.zeros(0, 9, 2)).shape == (0, 7, 9, 2)
