"""metrics.json: the losses and metrics of a training, one JSON object a line.

A run that was killed leaves a torn line, and after resuming it repeats iterations.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from mask_former.errors import MissingFileError

Entry = dict[str, Any]


class MetricsWriter(EventWriter):
    """Appends to a metrics.json what is new in the storage.

    Unlike Detectron2's `JSONWriter` it leaves out what is not finite, such as the AP of a class
    without ground truth: JSON has no NaN.

    Losses are medians of 20 iterations, as there.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (until `close`)
        self._last = -1

    def write(self) -> None:
        entries: dict[int, Entry] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(window_size=20)
        for name, (value, iteration) in latest.items():
            if iteration > self._last and math.isfinite(value):
                entries[iteration][name] = value
        for iteration in sorted(entries):
            entry = entries[iteration] | {"iteration": iteration}
            self._file.write(json.dumps(entry, sort_keys=True, allow_nan=False) + "\n")
            self._last = iteration
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def intact_lines(lines: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    """The lines that are complete, without their newlines, and their entries."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("iteration"), int):
            yield line.rstrip("\n"), entry


def read_metrics(path: str | Path) -> list[Entry]:
    """Read a `metrics.json`.

    Returns:
        One entry for each iteration, in their order. Losses and metrics of one iteration may stand
        on different lines, which are joined; of repeated iterations the last counts. None if every
        line is empty or torn.

    Raises:
        MissingFileError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no training metrics at {path}; train_net.py writes that file")
    entries: dict[int, Entry] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for _, entry in intact_lines(file):
            entries[entry["iteration"]] = entries.get(entry["iteration"], {}) | entry
    return [entries[iteration] for iteration in sorted(entries)]


def drop_metrics_from(iteration: int, folder: str) -> None:
    """Drop from the metrics.json of `folder` what a resumed training will write again.

    A run that was killed had gone on after its last checkpoint. What comes before `iteration`
    stays, and so does a final evaluation, which is filed under the number of iterations.
    """
    path = os.path.join(folder, "metrics.json")
    if not os.path.isfile(path):
        return
    # In place, since the writer of this run has opened the file.
    with open(path, "r+", encoding="utf-8", errors="replace") as file:
        kept = [f"{line}\n" for line, entry in intact_lines(file) if _is_before(entry, iteration)]
        file.seek(0)
        file.writelines(kept)
        file.truncate()


def _is_before(entry: Entry, iteration: int) -> bool:
    if "total_loss" in entry:
        return entry["iteration"] < iteration
    return entry["iteration"] <= iteration
