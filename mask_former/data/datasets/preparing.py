"""Converting a downloaded data set: on all cores, resumable, verified.

A folder of converted files is built beside its place, as NAME.partial, with a journal of what is
done; it gets its name when every file is there. So an interrupted conversion goes on where it
stopped, and nothing that looks complete is not.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from mask_former.errors import MissingFileError, UserError

Job = TypeVar("Job")
JOURNAL = "journal.jsonl"
_LISTED = 5
# Jobs that a process takes at a time. Fewer are not worth starting a process for.
_CHUNK = 4


def build_folder(
    folder: Path,
    jobs: Mapping[str, Job],
    work: Callable[[Job, Path], Any],
    *,
    description: str,
    settings: Any = None,
    finish: Callable[[dict[str, Any]], None] | None = None,
    workers: int | None = None,
) -> None:
    """Make a folder of one file for each job, unless it is there already.

    Args:
        folder: to be made.
        jobs: what to make each file of, by its path in the folder.
        work: called with a job and the path to write the file to; a function of a module, as it
            runs in other processes. What it returns has to survive JSON.
        description: beside the progress bar.
        settings: whatever else the files depend on, as JSON has it. What an interrupted
            conversion with other settings left is made anew.
        finish: called with the results of `work`, by file, before the folder gets its name; to
            write what describes the files.
        workers: number of processes; None for one per CPU.

    Raises:
        ValueError: the folder is there, but lacks files.
    """
    if folder.exists():
        verify_folder(folder, jobs)
        return
    building = folder.with_name(f"{folder.name}.partial")
    results = parallel_map(
        partial(_make_file, work, building),
        {name: (name, job) for name, job in jobs.items()},
        journal=building / JOURNAL,
        description=description,
        settings=settings,
        workers=workers,
    )
    verify_folder(building, jobs)
    if finish is not None:
        finish(results)
    (building / JOURNAL).unlink()
    building.rename(folder)


def verify_folder(folder: Path, names: Collection[str]) -> None:
    """Raise ValueError unless `folder` has a file, not empty, of each name."""
    if missing := _missing(folder, names):
        raise UserError(
            f"{folder} lacks {len(missing)} of its {len(names)} files ({listed(missing)}). "
            "Remove the folder and run the same command again."
        )


def _make_file(work: Callable[[Job, Path], Any], folder: Path, named: tuple[str, Job]) -> Any:
    name, job = named
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return work(job, path)
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:  # decoders raise anything, and do not say of which file
        raise UserError(
            f"{path} cannot be made of {job} ({type(error).__name__}: {error})."
        ) from error


def parallel_map(
    work: Callable[[Job], Any],
    jobs: Mapping[str, Job],
    *,
    journal: Path,
    description: str,
    settings: Any = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """The results of `work` on all jobs, by their keys, with a progress bar.

    Args:
        work: a function of a module; its results have to survive JSON.
        jobs: by keys that name them in the journal.
        journal: a file of the results so far. Jobs that it has are not done again; who is done
            with all of them removes it.
        description, settings, workers: see `build_folder`.
    """
    results = _read_journal(journal, settings)
    todo = {key: job for key, job in jobs.items() if key not in results}
    journal.parent.mkdir(parents=True, exist_ok=True)
    mode = "a" if journal.exists() else "w"
    with (
        journal.open(mode, encoding="utf-8") as file,
        tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc=description) as bar,
    ):
        if mode == "w":
            file.write(json.dumps({"settings": settings}) + "\n")
        for key, result in zip(todo, run_jobs(work, todo.values(), workers), strict=True):
            # Begins a line, as the last one may have been cut off.
            file.write("\n" + json.dumps([key, result]))
            file.flush()
            results[key] = result
            bar.update()
    return {key: results[key] for key in jobs}


def _read_journal(path: Path, settings: Any) -> dict[str, Any]:
    """The results in a journal; none, and no journal any more, if it has other settings."""
    if not path.exists():
        return {}
    head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if _parse(head) != json.loads(json.dumps({"settings": settings})):
        path.unlink()
        return {}
    return dict(entry for line in lines if (entry := _parse(line)) is not None)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # cut off when the process was killed


def run_jobs(
    work: Callable[[Job], Any], jobs: Collection[Job], workers: int | None
) -> Iterator[Any]:
    """The results of `work` on the jobs, in their order, as they are ready.

    Args:
        work: a picklable function of one job.
        workers: number of processes; None for one per CPU.
    """
    workers = min(workers or os.cpu_count() or 1, len(jobs) // _CHUNK)
    if workers <= 1:
        yield from map(work, jobs)
        return
    # This process has threads; a fork of it might wait forever for a lock that one of them held.
    # The fork server has none, and imports what all processes need, once.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    # OpenCV's own threads would compete with the processes.
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    )
    try:
        yield from executor.map(work, jobs, chunksize=_CHUNK)
    except (ValueError, OSError) as error:
        # As if raised here: what the message explains needs no traceback of another process.
        raise error.with_traceback(None) from None
    finally:
        executor.shutdown(cancel_futures=True)  # after an error, the rest is of no use


def pair_files(
    images: Path, labels: Path, *, image_suffix: str = ".jpg", label_suffix: str = ".png"
) -> dict[str, tuple[Path, Path]]:
    """Image and label file of each stem (path without suffix, relative to the folder), sorted.

    Raises:
        FileNotFoundError: a folder is missing, or a file of a pair: the download is incomplete.
    """
    found = [
        {
            str(path.relative_to(folder))[: -len(suffix)]: path
            for path in sorted(require(folder).rglob(f"*{suffix}"))
            if not path.name.startswith(".")  # of macOS
        }
        for folder, suffix in ((images, image_suffix), (labels, label_suffix))
    ]
    for (folder, suffix), here, other in (
        ((images, image_suffix), *found),
        ((labels, label_suffix), *found[::-1]),
    ):
        require_files(folder, [f"{stem}{suffix}" for stem in sorted(here.keys() | other.keys())])
    if not found[0]:
        raise MissingFileError(f"{images} holds no {image_suffix} files; unpack the download.")
    return {stem: (path, found[1][stem]) for stem, path in found[0].items()}


def require_files(folder: Path, names: Collection[str]) -> None:
    """Raise FileNotFoundError unless `folder` has a file, not empty, of each name."""
    if missing := _missing(folder, names):
        raise MissingFileError(
            f"{folder} lacks {len(missing)} files ({listed(missing)}), or they are empty. "
            "Download or unpack the data set again; it is incomplete."
        )


def _missing(folder: Path, names: Collection[str]) -> list[str]:
    """Those of the files that are not there, or empty."""
    paths = {name: folder / name for name in names}
    return [name for name, path in paths.items() if not (path.is_file() and path.stat().st_size)]


def require(path: Path, source: str = "") -> Path:
    """`path`, or FileNotFoundError if the download does not have it; `source` says where it is."""
    if not path.exists():
        raise MissingFileError(
            f"{path} is missing. {source or 'Is the data set downloaded and unpacked?'} "
            "docs/DATASETS.md shows the folders as they should be."
        )
    return path


def listed(names: Collection[str], suffix: str = "") -> str:
    """The first few names, for an error message."""
    shown = ", ".join(f"{name}{suffix}" for name in list(names)[:_LISTED])
    return shown + (", ..." if len(names) > _LISTED else "")


def read_labels(path: Path) -> np.ndarray:
    """A label image as it is in the file: (H, W) or (H, W, C), no palette applied.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.array(image)
    except Exception as error:  # decoders raise anything
        raise UserError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error}). "
            "Download or unpack it again."
        ) from error


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write uint8 or uint16 (H, W), or RGB uint8 (H, W, 3), as PNG, and read it back."""
    Image.fromarray(labels).save(path, format="PNG")
    # A full or failing disk shows here, not in the middle of a training.
    if not np.array_equal(read_labels(path), labels):
        raise OSError(f"{path} was not written correctly; is the disk full?")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file through a temporary name: it is there as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
