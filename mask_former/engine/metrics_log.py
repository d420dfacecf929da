"""metrics.json, the record of a run's figures, when the run is continued."""

import json
import os


def forget_metrics_from(iteration: int, folder: str) -> None:
    """Drop from the metrics.json of `folder` what will be trained, and written, again.

    A run that was killed had gone on after its last checkpoint. What comes before `iteration`
    stays, and so does a final evaluation, which is filed under the number of iterations. A line
    that was cut off goes.
    """
    path = os.path.join(folder, "metrics.json")
    if not os.path.isfile(path):
        return
    # In place, since the writer of this run has opened the file.
    with open(path, "r+") as file:
        kept = [line for line in file if _is_before(line, iteration)]
        file.seek(0)
        file.writelines(kept)
        file.truncate()


def _is_before(line: str, iteration: int) -> bool:
    try:
        figures = json.loads(line)
    except json.JSONDecodeError:
        return False
    if "total_loss" in figures:
        return figures["iteration"] < iteration
    return figures["iteration"] <= iteration
