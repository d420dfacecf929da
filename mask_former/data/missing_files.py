"""Where a file may be that is not where it should."""

from functools import lru_cache
from pathlib import Path


def elsewhere(missing: str | Path) -> str:
    """A hint where a missing file may be, for an error message; "" without one."""
    path = Path(missing)
    if "\\" in path.name:
        return " Its name has backslashes: folders are divided by / here."
    places = (folder / path.name for folder in _folders_in(path.parent))
    found = next(filter(Path.exists, places), None)
    return f" There is {found}: is its folder meant?" if found else ""


@lru_cache(maxsize=8)
def _folders_in(folder: Path) -> list[Path]:
    """Listed once: of a large folder many files may be missing."""
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
