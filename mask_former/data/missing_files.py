"""Where a file may be that is not where it should."""

from functools import lru_cache
from pathlib import Path


def elsewhere(missing: str | Path) -> str:
    """A hint where a missing file may be, for an error message; "" without one."""
    path = Path(missing)
    if found := _without_folders(path):
        return f" There is {found}: leave the folders, those of another place, out of its name."
    if "\\" in path.name:
        return " Its name has backslashes: folders are divided by / here."
    places = (folder / path.name for folder in _folders_in(path.parent))
    found = next(filter(Path.exists, places), None)
    return f" There is {found}: is its folder meant?" if found else ""


def _without_folders(path: Path) -> Path | None:
    """The file where it would be without the folders in its name, such as those of the computer on
    which it was annotated: `root/C:/Users/me/a.jpg`, also with backslashes, may be `root/a.jpg`.
    """
    root = next((folder for folder in path.parents if folder.is_dir()), None)
    name = path.name.rsplit("\\", 1)[-1]
    if root is None or not name or root / name == path:
        return None
    return root / name if (root / name).is_file() else None


@lru_cache(maxsize=8)
def _folders_in(folder: Path) -> list[Path]:
    """Listed once: of a large folder many files may be missing."""
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
