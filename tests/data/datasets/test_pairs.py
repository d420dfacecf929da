"""Images and label maps that belong together."""

import logging

import pytest

from mask_former.data.datasets.pairs import find_pairs
from mask_former.errors import MissingFileError, UserError


@pytest.fixture
def pairs_of(tmp_path):
    """Makes empty files, and finds the pairs in two folders, relative to that of all."""

    def pairs_of(files, images="images", labels="labels", **options):
        for file in files.split():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        if "image_list" in options:
            text = "\n".join(options["image_list"]) + "\n\n"
            (tmp_path / "list.txt").write_text(text)
            options["image_list"] = str(tmp_path / "list.txt")
        found = find_pairs(str(tmp_path / images), str(tmp_path / labels), **options)
        return [tuple(p.removeprefix(f"{tmp_path}/") for p in pair) for pair in found]

    return pairs_of


def test_any_suffix_of_a_picture_by_name(pairs_of):
    files = "images/b.JPG images/a.jpeg images/notes.txt labels/a.png labels/b.tif labels/.a.png"
    assert pairs_of(files) == [
        ("images/a.jpeg", "labels/a.png"),
        ("images/b.JPG", "labels/b.tif"),
    ]


def test_other_suffixes(pairs_of):
    files = "images/a_left.png labels/a_ids.png labels/a_color.png labels/a_ids.json"
    found = pairs_of(files, image_suffix="_left.png", label_suffix="_ids.png")
    assert found == [("images/a_left.png", "labels/a_ids.png")]


def test_a_suffix_without_its_dot(pairs_of):
    found = pairs_of("images/a.b.jpg labels/a.b.png", image_suffix="jpg", label_suffix="png")
    assert found == [("images/a.b.jpg", "labels/a.b.png")]


def test_subfolders(pairs_of):
    files = "images/x/1.jpg images/y/1.jpg labels/x/1.png labels/y/1.png"
    assert pairs_of(files) == [
        ("images/x/1.jpg", "labels/x/1.png"),
        ("images/y/1.jpg", "labels/y/1.png"),
    ]


def test_labels_in_a_folder_in_that_of_the_images(pairs_of):
    assert pairs_of("all/a.png all/masks/a.png", images="all", labels="all/masks") == [
        ("all/a.png", "all/masks/a.png")
    ]


def test_labels_among_the_images(pairs_of, caplog):
    found = pairs_of("all/a.png all/a_mask.png", "all", "all", label_suffix="_mask.png")
    assert found == [("all/a.png", "all/a_mask.png")] and not caplog.records
    found = pairs_of("all/b.jpg all/b.png", "all", "all", image_suffix=".jpg")
    assert found == [("all/b.jpg", "all/b.png")]


def test_two_images_of_one_name(pairs_of):
    with pytest.raises(UserError, match="a.jpg and .*a.png have one name.*IMAGE_SUFFIX"):
        pairs_of("all/a.jpg all/a.png", "all", "all")


def test_a_list_of_images(pairs_of, caplog):
    files = "images/b.jpg images/a.jpg images/c.jpg labels/a.png labels/b.png labels/c.png"
    found = pairs_of(files, image_list=["c.jpg", "a"])
    assert [image for image, _ in found] == ["images/a.jpg", "images/c.jpg"]
    assert not caplog.records  # the others are left out on purpose
    with pytest.raises(
        MissingFileError, match="list.txt names 1 of 2 images that are not.*: d.jpg"
    ):
        pairs_of(files, image_list=["a", "d.jpg"])


def test_every_image_of_a_list_needs_its_label_map(pairs_of):
    files = "images/b.jpg images/a.jpg images/c.jpg labels/a.png labels/d.png"
    with pytest.raises(MissingFileError, match="2 of the 3 images that .*list.txt .*: c, b. C"):
        pairs_of(files, image_list=["c.jpg", "a", "b"])


def test_what_has_no_partner_is_left_out(pairs_of, caplog):
    with caplog.at_level(logging.WARNING):
        found = pairs_of("images/a.jpg images/b.jpg labels/a.png labels/c.png")
    assert found == [("images/a.jpg", "labels/a.png")]
    assert "1 images are left out" in caplog.text and ": b" in caplog.text
    assert "1 label maps are left out" in caplog.text and ": c" in caplog.text


def test_no_pair(pairs_of):
    with pytest.raises(
        MissingFileError, match=r"1 files\) and .*1 files\) have no file of the same"
    ):
        pairs_of("images/a.jpg labels/b.png")


def test_label_maps_as_jpeg_are_refused(pairs_of):
    with pytest.raises(UserError, match="1 label maps are JPEG.*labels/b.jpg.* as PNG"):
        pairs_of("images/a.jpg images/b.jpg labels/a.png labels/b.jpg")
