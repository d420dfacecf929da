"""Whether a learning rate was chosen for the batch size that it is used with."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any


def rate_of_another_batch(settings: Iterable[tuple[str, Any, str]]) -> str:
    """What to say where SOLVER.BASE_LR was set together with one batch size, by a recipe, and
    another one was set after it, as by the command line; "" where that is not so.

    Args:
        settings: key, value and source, from the first to the last that is applied.
    """
    batch = rate = batch_of_rate = origin = None
    for source, group in groupby(settings, key=lambda setting: setting[2]):
        values = {key: value for key, value, _ in group}
        batch = values.get("SOLVER.IMS_PER_BATCH", batch)
        if "SOLVER.BASE_LR" in values:
            rate, batch_of_rate, origin = values["SOLVER.BASE_LR"], batch, source
    if batch_of_rate is None or int(batch) == int(batch_of_rate):
        return ""
    proportional = float(rate) * int(batch) / int(batch_of_rate)
    return (
        f"SOLVER.BASE_LR {float(rate):g} of {origin} is for SOLVER.IMS_PER_BATCH {batch_of_rate}, "
        f"which now is {batch}. In proportion to the batch it would be SOLVER.BASE_LR "
        f"{proportional:g}, and SOLVER.MAX_ITER {int(batch_of_rate) / int(batch):g} times as large."
    )
