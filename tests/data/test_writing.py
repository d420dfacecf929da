"""Files are written as a whole, or an error names them."""

import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from mask_former.data.reading import read_image, read_lossless
from mask_former.data.writing import write_image, write_json
from mask_former.errors import NonFiniteError, UnwritableFileError


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_maps_keep_their_depth(tmp_path, dtype):
    labels = np.arange(6, dtype=dtype).reshape(2, 3) + np.iinfo(dtype).max - 5
    write_image(tmp_path / "new" / "x.png", labels)
    read = read_lossless(tmp_path / "new" / "x.png")
    assert read.dtype == dtype and np.array_equal(read, labels)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_channel_order(tmp_path, image_format):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    write_image(tmp_path / "x.png", image, image_format)
    assert np.array_equal(read_image(tmp_path / "x.png", image_format), image)
    with Image.open(tmp_path / "x.png") as file:
        rgb = image if image_format == "RGB" else image[..., ::-1]
        assert np.array_equal(np.asarray(file), rgb)


def test_photographs_are_compressed_with_little_loss(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[:, None], 64, axis=1)
    image = np.repeat(ramp[..., None], 3, axis=2)
    write_image(tmp_path / "x.jpg", image)
    difference = cv2.absdiff(read_image(tmp_path / "x.jpg", "RGB"), image)
    assert difference.max() <= 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(tmp_path):
    (tmp_path / "x.png").symlink_to("/dev/full")
    with pytest.raises(UnwritableFileError, match=r"x\.png .*No space left"):
        write_image(tmp_path / "x.png", np.zeros((4, 5), np.uint8))


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(UnwritableFileError, match="x.png"):
        write_image(tmp_path / "folder" / "x.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(UnwritableFileError, match="x.json"):
        write_json(tmp_path / "folder" / "x.json", [])


def test_json_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "x.json"
    write_json(path, {"a": [1, 2]})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert os.listdir(path.parent) == ["x.json"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float64("inf")])
def test_json_without_what_is_no_number(tmp_path, value):
    with pytest.raises(NonFiniteError, match=r"x\.json is not written"):
        write_json(tmp_path / "x.json", [{"score": value}])
    assert not os.listdir(tmp_path)
