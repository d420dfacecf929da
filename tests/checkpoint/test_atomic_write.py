import errno
import os

import pytest
import torch

from mask_former.checkpoint.atomic_write import explained_write_errors, replaced_when_complete
from mask_former.errors import UnwritableFileError

WEIGHTS = {"a": torch.zeros(1000)}


class FullAfter:
    """A file on a disk that has so many bytes left."""

    def __init__(self, file, left):
        self._file = file
        self._left = left

    def write(self, data):
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def flush(self):
        self._file.flush()


@pytest.mark.parametrize("left", [0, 1000, 4000])
def test_a_full_disk_is_named_behind_pytorchs_own_error(tmp_path, left):
    path = tmp_path / "model.pth"
    path.write_bytes(b"the one before")
    with (
        pytest.raises(UnwritableFileError, match=r"model\.pth cannot be written.*No space left"),
        replaced_when_complete(path) as file,
    ):
        torch.save(WEIGHTS, FullAfter(file, left))
    assert path.read_bytes() == b"the one before"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_another_error_keeps_its_class(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), explained_write_errors(tmp_path / "x"):
        raise RuntimeError("a bug")
