"""Converting a downloaded data set on all cores.

A folder of converted files is built as NAME.partial, with a journal of the files that are done, and
is renamed when all of them are there. An interrupted conversion continues where it stopped, and a
folder that has its name is complete.
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
from tqdm import tqdm

from mask_former.data.missing_files import elsewhere
from mask_former.errors import MissingFileError, UserError, listed

Job = TypeVar("Job")
JOURNAL = "journal.jsonl"
# Jobs that a process takes at a time; fewer are not worth starting one for.
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
    """Make a folder of one file for each job, unless it exists.

    Args:
        folder: to be made.
        jobs: the source of each file, by the file's path in the folder.
        work: called with a job and the path of the file to write; runs in other processes, so a
            module-level function. Its result must be serializable as JSON.
        description: of the progress bar.
        settings: whatever else the files depend on, serializable as JSON. Files of an interrupted
            conversion with other settings are not reused.
        finish: called with the results of `work`, by file, before the folder is renamed: writes
            the index of the files.
        workers: number of processes; None: one per CPU.

    Raises:
        UserError: the folder exists, but lacks files.
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
    """Raise UserError unless `folder` has a file, not empty, of each name."""
    if missing := _missing(folder, names):
        raise UserError(
            f"{folder} lacks {len(missing)} of its {len(names)} files ({listed(missing, 5)}). "
            "Remove the folder and run the same command again."
        )


def _make_file(work: Callable[[Job, Path], Any], folder: Path, named: tuple[str, Job]) -> Any:
    name, job = named
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return work(job, path)


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
        work: as in `build_folder`, but called with a job alone.
        jobs: by the keys that name them in the journal.
        journal: a file of the results so far, whose jobs are not done again. The caller removes it.
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
            # The newline comes first, as the last line may have been cut off.
            file.write("\n" + json.dumps([key, result]))
            file.flush()
            results[key] = result
            bar.update()
    return {key: results[key] for key in jobs}


def _read_journal(path: Path, settings: Any) -> dict[str, Any]:
    """The results in a journal; one with other settings is removed."""
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
    """Yield the results of `work` on the jobs, in their order.

    Args:
        work: a picklable function of one job.
        workers: number of processes; None: one per CPU.
    """
    workers = min(workers or os.cpu_count() or 1, len(jobs) // _CHUNK)
    if workers <= 1:
        yield from map(work, jobs)
        return
    # Forking this process, which has threads, might copy a lock that is never released. The fork
    # server has no threads, and imports what all processes need, once.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    # OpenCV's own threads would compete with the processes.
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    )
    try:
        yield from executor.map(work, jobs, chunksize=_CHUNK)
    except UserError as error:
        # As if raised here: the message needs no traceback of another process.
        raise error.with_traceback(None) from None
    finally:
        executor.shutdown(cancel_futures=True)


def pair_files(
    images: Path, labels: Path, *, image_suffix: str = ".jpg", label_suffix: str = ".png"
) -> dict[str, tuple[Path, Path]]:
    """Image and label file of each stem (path without suffix, relative to the folder), sorted.

    Raises:
        FileNotFoundError: a folder is missing, or a file of a pair: the download is incomplete.
    """
    sides = ((images, image_suffix), (labels, label_suffix))
    image_files, label_files = (
        {
            str(path.relative_to(folder))[: -len(suffix)]: path
            for path in sorted(require_path(folder).rglob(f"*{suffix}"))
            if not path.name.startswith(".")  # of macOS
        }
        for folder, suffix in sides
    )
    stems = sorted(image_files.keys() | label_files.keys())
    for folder, suffix in sides:
        require_files(folder, [f"{stem}{suffix}" for stem in stems])
    if not stems:
        raise MissingFileError(f"{images} holds no {image_suffix} files; unpack the download.")
    return {stem: (path, label_files[stem]) for stem, path in image_files.items()}


def require_files(folder: Path, names: Collection[str]) -> None:
    """Raise FileNotFoundError unless `folder` has a file, not empty, of each name."""
    if missing := _missing(folder, names):
        raise MissingFileError(
            f"{folder} lacks {len(missing)} files ({listed(missing, 5)}), or they are empty. "
            "Download or unpack the data set again; it is incomplete."
        )


def _missing(folder: Path, names: Collection[str]) -> list[str]:
    """The files that do not exist, or are empty."""
    paths = {name: folder / name for name in names}
    return [name for name, path in paths.items() if not (path.is_file() and path.stat().st_size)]


def read_stems(path: Path, source: str = "") -> list[str]:
    """The names of images, without suffix, that a text file lists.

    Raises:
        FileNotFoundError: the download lacks it. `source` says where to get it.
        UserError: it lists none.
    """
    stems = require_path(path, source).read_text(encoding="utf-8").split()
    if not stems:
        raise UserError(f"{path} names no images; unpack the data set again")
    return stems


def require_path(path: Path, source: str = "") -> Path:
    """`path`; FileNotFoundError if the download lacks it. `source` says where to get it."""
    if not path.exists():
        raise MissingFileError(
            f"{path} is missing. {source or 'Is the data set downloaded and unpacked?'} "
            f"docs/DATASETS.md shows the folders as they should be.{elsewhere(_gone(path))}"
        )
    return path


def _gone(path: Path) -> Path:
    """`path` or, where its folder is missing as well, the uppermost that is."""
    parents = [path, *path.parents]
    return next(
        (path for path, folder in zip(parents, parents[1:], strict=False) if folder.exists()), path
    )
