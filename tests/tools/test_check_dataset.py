"""The command: exit code, report in words and as JSON, contact sheet."""

import json

import cv2
import numpy as np
import pytest

from mask_former.data.datasets import register_semantic
from tests.data.test_report import NAMES, clean, image, save  # noqa: F401  (clean is a fixture)
from tools.check_dataset import main

COLORS = [[200, 0, 0], [0, 0, 200]]


@pytest.fixture
def config(tmp_path):
    """A config of four images, whose label maps are half of the one and half of the other class."""
    for number in range(4):
        image(tmp_path / "images" / f"{number}.png", 60 * number)
        save(tmp_path / "labels" / f"{number}.png", [[0] * 25 + [1] * 25] * 40)
    register_semantic(
        NAMES[0],
        image_root=tmp_path / "images",
        sem_seg_root=tmp_path / "labels",
        image_suffix="png",
        classes=["sky", "tree"],
        colors=COLORS,
    )
    path = tmp_path / "config.yaml"
    path.write_text(f"DATASETS: {{TRAIN: [{NAMES[0]}], TEST: [{NAMES[0]}]}}")
    return path


def test_sound_data(config, tmp_path, capsys):
    outputs = ["--json", str(tmp_path / "new" / "report.json"), "--sheet", str(tmp_path / "x.png")]
    assert main([str(config), *outputs, "--workers", "1", "INPUT.FORMAT", "RGB"]) == 0
    said = capsys.readouterr().out
    assert f"{NAMES[0]}: 4 images" in said and "Faults: 0. Remarks: 0." in said
    (report,) = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["name"] == NAMES[0] and report["num_images"] == 4 and report["faults"] == []
    assert [entry["pixels"] for entry in report["classes"]] == [4000, 4000]
    sheet = cv2.imread(str(tmp_path / "x.png"))
    # Four pictures of 400 x 320, half of them red, half blue, over images from black to grey.
    red, blue = sheet[..., 2].astype(int) - sheet[..., 0], sheet[..., 0].astype(int) - sheet[..., 2]
    for difference in (red, blue):
        assert np.count_nonzero(difference > 60) == pytest.approx(4 * 400 * 320 / 2, rel=0.05)


def test_faults(config, tmp_path, capsys):
    (tmp_path / "images" / "1.png").write_bytes(b"")
    for number in (2, 3):
        save(tmp_path / "labels" / f"{number}.png", [[7] * 50] * 40)
    assert main([str(config), "--workers", "1"]) == 2
    said = capsys.readouterr().out
    assert "images that cannot be read, or have another size: 1" in said
    assert "annotations that cannot be read, or do not fit: 2" in said
    assert said.count("holds the values 7") == 2 and "Faults: 3." in said


def test_what_is_the_same_of_several_files_is_said_once(config, tmp_path, capsys):
    for number in (2, 3):
        save(tmp_path / "labels" / f"{number}.png", [[255] * 50] * 40)
    assert main([str(config), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "images without a segment: 2" in said
    assert "2.png, " in said and "3.png: no segment: nothing is learned from it" in said
    assert said.count("nothing is learned") == 1


def test_nothing_to_draw(config, tmp_path):
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"")
    assert main([str(config), "--workers", "1", "--sheet", str(tmp_path / "x.png")]) == 2
    assert not (tmp_path / "x.png").exists()


def test_the_config_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "none.yaml")])
    assert "none.yaml does not exist" in capsys.readouterr().err
