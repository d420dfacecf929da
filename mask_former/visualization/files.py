"""Finding the images to segment, and naming their pictures."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from mask_former.errors import UserError
from mask_former.visualization.video import CODECS, check_suffix

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(inputs: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Resolve files, folders (the images in them, by suffix) and globs (`**` is any depth).

    Returns:
        the images, each once, in the order of `inputs` and then of their names; and a message for
        every input that matches no file.
    """
    images: dict[Path, None] = {}
    nothing = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            suffixed = (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            found = sorted(p for p in suffixed if not p.is_dir())
        elif path.exists():
            found = [path]
        else:
            found = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
        if not found:
            nothing.append(f"{name}: {_nothing_in(path) if path.is_dir() else 'no such file'}")
        images.update(dict.fromkeys(found))
    return list(images), nothing


def _nothing_in(folder: Path) -> str:
    below = next((p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES), None)
    if below is None:
        return "no image in it"
    return f"no image directly in it; below it there are: give '{folder}/**/*{below.suffix}'"


def is_file(output: Path) -> bool:
    """Whether `output` means a file: it has the suffix of a picture or video, and is no folder."""
    return not output.is_dir() and output.suffix.lower() in (*IMAGE_SUFFIXES, *CODECS)


def plan_pictures(images: Sequence[Path], output: Path) -> list[Path]:
    """Name the picture of each image.

    Args:
        images: the inputs.
        output: a file, for a single image, or a folder. In a folder pictures have the names of
            their images; of images with one name the later ones get a number.

    Raises:
        UserError: several images for one file, a suffix that is no picture's, or a picture that
            would overwrite an image.
    """
    if not is_file(output):
        _check_folder(output)
        pictures = [output / name for name in _distinct_names(images)]
    elif len(images) > 1:
        raise UserError(f"{output} is one file for {len(images)} images: name a folder")
    elif output.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{output}: a picture's name ends in one of {', '.join(IMAGE_SUFFIXES)}")
    else:
        pictures = [output]
    sources = {image.resolve() for image in images}
    for picture in pictures:
        _check_not_input(picture, sources)
    return pictures


def plan_video(name: Path, output: Path) -> Path:
    """Name the segmented video.

    Args:
        name: the video that is read.
        output: a file, or a folder, in which the result has the name of the video.

    Raises:
        UserError: videos cannot be written under that suffix, or `name` would be overwritten.
    """
    if output.is_dir() or not output.suffix:
        _check_folder(output)
        output = output / (name.name if name.suffix.lower() in CODECS else f"{name.stem}.mp4")
    check_suffix(output)
    _check_not_input(output, {name.resolve()})
    return output


def _distinct_names(images: Sequence[Path]) -> list[str]:
    """File names that differ in more than their suffix, since results are named by the stem."""
    names = []
    taken: set[str] = set()
    for image in images:
        stem, number = image.stem, 1
        while stem in taken:
            number += 1
            stem = f"{image.stem}_{number}"
        taken.add(stem)
        suffix = image.suffix if image.suffix.lower() in IMAGE_SUFFIXES else ".png"
        names.append(f"{stem}{suffix}")
    return names


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file, and neither a picture nor a video")


def _check_not_input(output: Path, inputs: set[Path]) -> None:
    if output.resolve() in inputs:
        raise UserError(f"the output {output} would overwrite the input: choose another name")
