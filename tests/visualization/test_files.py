from pathlib import Path

import pytest

from mask_former.visualization import files


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.jpg", "a/2.PNG", "a/notes.txt", "b/1.jpg", "b/deep/3.webp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_files_folders_and_globs_each_image_once(folder):
    inputs = [folder / "b/1.jpg", folder / "a", folder / "**/*.jpg", folder / "a/notes.txt"]
    images, nothing = files.find_images(map(str, inputs))
    # A file that is named is tried, whatever its suffix.
    assert names(images, folder) == ["b/1.jpg", "a/1.jpg", "a/2.PNG", "a/notes.txt"]
    assert nothing == []


def test_inputs_that_name_nothing_are_told(folder):
    (folder / "empty").mkdir()
    images, nothing = files.find_images([f"{folder}/no.jpg", f"{folder}/*.gif", f"{folder}/empty"])
    assert images == []
    assert nothing == [
        f"{folder}/no.jpg: no such file",
        f"{folder}/*.gif: no such file",
        f"{folder}/empty: no image in it",
    ]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    path = tmp_path / "photo[1].jpg"
    path.write_bytes(b"")
    assert files.find_images([str(path)]) == ([path], [])


def test_pictures_do_not_overwrite_one_another():
    images = [Path(name) for name in ("a/1.jpg", "b/1.jpg", "c/1_2.jpg", "d/1.png", "e/x.dat")]
    pictures = files.plan_pictures(images, Path("out"))
    assert pictures[0] == Path("out/1.jpg") and pictures[-1] == Path("out/x.png")
    assert len({picture.stem for picture in pictures}) == 5


def test_one_image_goes_into_a_file_several_do_not(tmp_path):
    output = tmp_path / "picture.png"
    assert files.plan_pictures([Path("a.jpg")], output) == [output]
    with pytest.raises(ValueError, match="one file for 2 images"):
        files.plan_pictures([Path("a.jpg"), Path("b.jpg")], output)
    with pytest.raises(ValueError, match=r"picture.mp4.*\.jpg"):
        files.plan_pictures([Path("a.jpg")], tmp_path / "picture.mp4")


def test_a_folder_may_look_like_a_file(tmp_path):
    output = tmp_path / "run.png"
    output.mkdir()
    assert files.plan_pictures([Path("a.jpg")], output) == [output / "a.jpg"]
    output = tmp_path / "v1.0"
    output.mkdir()
    assert files.plan_video(Path("a.avi"), output) == output / "a.avi"


def test_inputs_are_never_overwritten(folder):
    with pytest.raises(ValueError, match="overwrite the input"):
        files.plan_pictures([folder / "a/1.jpg"], folder / "a/../a")
    with pytest.raises(ValueError, match="overwrite the input"):
        files.plan_video(folder / "clip.mp4", folder)


def test_an_output_that_is_some_other_file(folder):
    with pytest.raises(ValueError, match="notes.txt is a file"):
        files.plan_pictures([folder / "b/1.jpg"], folder / "a/notes.txt")


def test_the_name_of_a_video(tmp_path):
    assert files.plan_video(Path("in/clip.avi"), tmp_path) == tmp_path / "clip.avi"
    assert files.plan_video(Path("in/clip.mpg"), tmp_path / "new") == tmp_path / "new/clip.mp4"
    assert files.plan_video(Path("in/clip.avi"), tmp_path / "x.webm") == tmp_path / "x.webm"
    with pytest.raises(ValueError, match="x.gif"):
        files.plan_video(Path("in/clip.avi"), tmp_path / "x.gif")
