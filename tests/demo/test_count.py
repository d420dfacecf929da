"""`demo --count`, and images that are not as they seem."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.demo.test_demo import model, photos, run, saved, stop  # noqa: F401  (fixtures)


def test_numbers_of_objects(model, photos, tmp_path):  # noqa: F811
    flags = ["--input", photos / "a", "--confidence-threshold", 0, "--output"]
    assert run(*model, *flags, tmp_path / "bare") == 0
    assert run(*model, *flags, tmp_path / "out", "--count", "--save-results") == 0
    header, *rows = (tmp_path / "out/results/counts.csv").read_text().splitlines()
    assert header == "file_name,disc,square,triangle,star,cross,ring,total"
    panoptic = saved(tmp_path / "out", "panoptic")
    things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
    numbers = [int(row.split(",")[-1]) for row in rows]
    assert numbers == [
        sum(segment["category_id"] in things for segment in annotation["segments_info"])
        for annotation in panoptic["annotations"]
    ]
    for name, number in zip(("1.png", "2.jpg"), numbers, strict=True):
        bare, counted = (cv2.imread(str(tmp_path / folder / name)) for folder in ("bare", "out"))
        assert np.array_equal(bare, counted) is (number == 0)


def test_pixels_have_no_number(model, photos, tmp_path, capsys):  # noqa: F811
    flags = ["--input", photos / "a", "--output", tmp_path / "out", "--count"]
    assert "--count: semantic" in stop(capsys, *model, *flags, "--task", "semantic")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("exif", "size"), [(True, (80, 60)), (False, (60, 80))])
def test_orientation_of_exif(model, tmp_path, exif, size):  # noqa: F811
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.new("RGB", (80, 60)).save(tmp_path / "x.png", exif=orientation)
    flags = ["--input", tmp_path / "x.png", "--output", tmp_path / "out"]
    assert run(*model, *flags, "--opts", "INPUT.EXIF_ORIENTATION", exif) == 0
    assert cv2.imread(str(tmp_path / "out" / "x.png")).shape[:2] == size


def test_names_that_are_odd(model, photos, tmp_path, capsys):  # noqa: F811
    """A folder and a broken link called *.jpg, and a name that is no UTF-8."""
    (photos / "a" / "folder.jpg").mkdir()
    (photos / "a" / "gone.jpg").symlink_to("nowhere")
    odd = os.fsdecode(os.fsencode(photos / "a") + b"/\xff.png")
    Image.new("RGB", (40, 30)).save(odd)
    flags = ["--input", photos / "a", "--output", tmp_path / "out", "--save-results", "--count"]
    assert run(*model, *flags) == 1
    message = capsys.readouterr().err
    assert "1 could not be segmented" in message and "gone.jpg is missing" in message
    assert "folder.jpg" not in message
    assert len(saved(tmp_path / "out", "panoptic")["annotations"]) == 3
    assert len(list((tmp_path / "out").glob("*.*g"))) == 3


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_images_of_any_shape(model, tmp_path, task):  # noqa: F811
    sizes = {"1": (1, 1), "2": (1, 2000), "3": (2000, 1), "4": (2, 3)}
    for name, size in sizes.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((*size, 3), 90, dtype=np.uint8))
    flags = ["--input", tmp_path, "--output", tmp_path / "out", "--task", task, "--save-results"]
    # The tiny backbone does not pad, and norms of single channels need two pixels.
    options = ["MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 64, "INPUT.MIN_SIZE_TEST", 32]
    assert run(*model, *flags, "--opts", *options, "INPUT.MAX_SIZE_TEST", 128) == 0
    shapes = {p.stem: cv2.imread(str(p)).shape[:2] for p in (tmp_path / "out").glob("*.png")}
    assert shapes == sizes
