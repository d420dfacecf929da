"""Conversions go on where they stopped, and what looks complete is."""

import json
import os
from pathlib import Path

import pytest

from mask_former.data.datasets import preparing
from mask_former.data.datasets.preparing import (
    JOURNAL,
    build_folder,
    pair_files,
    parallel_map,
    require_path,
)
from mask_former.data.writing import write_json
from mask_former.errors import UserError

JOBS = {f"{'ab'[i % 2]}/{i}.txt": i for i in range(12)}


def square(number: int, path: Path) -> dict[str, int]:
    path.write_text(str(number**2))
    return {"process": os.getpid(), "square": number**2}


def fail_at_seven(number: int, path: Path) -> dict[str, int]:
    if number == 7:
        raise UserError("no sevens")
    return square(number, path)


def only_from_seven_on(number: int, path: Path) -> dict[str, int]:
    assert number >= 7
    return square(number, path)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_folder_is_built(tmp_path, workers):
    collected = []
    folder = tmp_path / "new" / "made"
    build_folder(folder, JOBS, square, description="", finish=collected.append, workers=workers)
    assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.txt")} == {
        name: str(number**2) for name, number in JOBS.items()
    }
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
    (results,) = collected
    assert list(results) == list(JOBS)
    assert [result["square"] for result in results.values()] == [i**2 for i in range(12)]
    elsewhere = {result["process"] for result in results.values()} - {os.getpid()}
    assert bool(elsewhere) == (workers > 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_it_goes_on_where_it_stopped(tmp_path, workers):
    folder, collected = tmp_path / "made", []
    with pytest.raises(ValueError, match="^no sevens$") as caught:
        build_folder(folder, JOBS, fail_at_seven, description="", workers=workers)
    # Not the depths of another process: the command line tells such an error without a traceback.
    assert str(caught.traceback[-1].path) in (__file__, preparing.__file__)
    assert not folder.exists()
    work = only_from_seven_on
    if workers > 1:  # a chunk of jobs comes back as a whole
        work = square
    build_folder(folder, JOBS, work, description="", finish=collected.append, workers=workers)
    assert [result["square"] for result in collected[0].values()] == [i**2 for i in range(12)]
    assert not (tmp_path / "made.partial").exists()


def test_a_killed_run_leaves_half_a_line(tmp_path):
    journal = tmp_path / "journal"
    parallel_map(str, {"x": 1, "y": 2}, journal=journal, description="")
    journal.write_text(journal.read_text()[:-3])
    assert parallel_map(lambda n: -n, {"x": 1, "y": 2}, journal=journal, description="") == {
        "x": "1",
        "y": -2,
    }
    assert parallel_map(str, {"x": 1, "y": 2}, journal=journal, description="")["y"] == -2


def test_other_settings_begin_anew(tmp_path):
    journal, jobs = tmp_path / "journal", {"x": 1}
    for settings, work, expected in (
        (("a",), str, "1"),
        (("a",), float, "1"),
        (("b",), float, 1.0),
    ):
        results = parallel_map(work, jobs, journal=journal, description="", settings=settings)
        assert results == {"x": expected}


def test_what_describes_the_files_is_written_before_they_get_their_name(tmp_path):
    folder = tmp_path / "made"

    def fail(results):
        assert not folder.exists()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_folder(folder, JOBS, square, description="", finish=fail, workers=1)
    assert (tmp_path / "made.partial" / JOURNAL).exists()
    description = tmp_path / "made.json"
    build_folder(
        folder,
        JOBS,
        only_from_seven_on,  # has nothing to do
        description="",
        finish=lambda results: write_json(description, list(results)),
        workers=1,
    )
    assert json.loads(description.read_text()) == list(JOBS)


def test_pairs(tmp_path):
    for name in ("images/b/1.jpg", "images/a.jpg", "labels/b/1.png", "labels/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"some")
    images, labels = tmp_path / "images", tmp_path / "labels"
    assert pair_files(images, labels) == {
        "a": (images / "a.jpg", labels / "a.png"),
        "b/1": (images / "b/1.jpg", labels / "b/1.png"),
    }
    (images / "._a.jpg").touch()  # of macOS
    assert len(pair_files(images, labels)) == 2
    (labels / "a.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"labels lacks 1 files \(a.png\), or"):
        pair_files(images, labels)
    (labels / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels lacks 1 files \(a.png\)"):
        pair_files(images, labels)
    with pytest.raises(FileNotFoundError, match="nothing is missing"):
        pair_files(tmp_path / "nothing", labels)
    with pytest.raises(FileNotFoundError, match="images holds no .tif files"):
        pair_files(images, labels, image_suffix=".tif", label_suffix=".tif")


@pytest.mark.parametrize("name", ["labels/a.json", "info.txt"])
def test_a_download_that_is_unpacked_one_level_too_deep_is_found(tmp_path, name):
    (tmp_path / "set" / "set" / name).parent.mkdir(parents=True)
    (tmp_path / "set" / "set" / name).touch()
    there = tmp_path / "set" / "set" / name.split("/")[0]
    with pytest.raises(FileNotFoundError, match=f"There is {there}: is its folder meant"):
        require_path(tmp_path / "set" / name)
