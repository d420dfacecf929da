"""What the benchmarks found: printed, kept in a folder, and put into the page of results.

    python -m benchmarks.report

writes the tables and plots of all benchmarks that were run into benchmarks/RESULTS.md, each between
its own two marks; one without marks, say of another device, gets a section at the end.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, StrMethodFormatter
from tabulate import tabulate

from benchmarks.measure import Timing, machine
from tools.sections import write_section

ROOT = Path(__file__).parents[1]
# Where `report` writes to; set for the processes of `benchmarks.gpu`.
OUTPUT = Path(os.environ.get("BENCHMARKS_OUTPUT", ROOT / "output/benchmarks"))
DOCUMENT = ROOT / "benchmarks/RESULTS.md"
IMAGES = ROOT / "benchmarks/images"
HEADER = ["", "", "time", "ours takes 1/x of it", "peak memory", "difference from ours"]
DIFFERS = "DIFFERS:"


@dataclass(frozen=True)
class Result:
    """One case of a benchmark.

    Attributes:
        case: what was done.
        ours: name of our contender, which the others are compared with.
        timings: of all contenders, in the order of the table.
        agreement: by contender, how its result differs from ours, in words or as a number.
    """

    case: str
    ours: str
    timings: dict[str, Timing]
    agreement: dict[str, str] = field(default_factory=dict)

    def values(self) -> list[dict[str, Any]]:
        """For every contender what the table has, as numbers."""
        ours = self.timings[self.ours]
        return [
            {
                "case": self.case,
                "contender": name,
                "seconds": timing.median,
                "times ours": ours.speedup(timing),
                "peak bytes": timing.peak_bytes,
                "difference from ours": self.agreement.get(name, ""),
            }
            for name, timing in self.timings.items()
        ]

    def rows(self) -> list[list[str]]:
        rows = []
        for row in self.values():
            faster = "" if row["contender"] == self.ours else f"{row['times ours']:.2f}"
            bytes_ = row["peak bytes"]
            peak = "" if bytes_ is None else f"{bytes_ / 2**20:.1f} MiB"
            time = f"{row['seconds'] * 1e3:.1f} ms"
            rows.append(["", row["contender"], time, faster, peak, row["difference from ours"]])
        rows[0][0] = self.case
        return rows


def agreement(text: str, *, holds: bool) -> str:
    """How a contender differs from ours, marked if that is too much: then `report` ends in an
    error, after the table is written."""
    return text if holds else f"{DIFFERS} {text}"


@dataclass(frozen=True)
class Growth:
    """How the time of the contenders grows with one size.

    Attributes:
        size: what grows, for the axis.
        values: of it.
        seconds: by contender, the median at each value.
    """

    size: str
    values: list[float]
    seconds: dict[str, list[float]]


def growth(
    size: str, values: Sequence[float], timings_at: Callable[[Any], Mapping[str, Timing]]
) -> Growth:
    """Time the contenders at each of the values of a size."""
    seconds: dict[str, list[float]] = {}
    for value in values:
        for name, timing in timings_at(value).items():
            seconds.setdefault(name, []).append(timing.median)
    return Growth(size, list(values), seconds)


def report(
    name: str,
    results: Sequence[Result],
    growths: Sequence[Growth] = (),
    *,
    remarks: Sequence[str] = (),
    device: str = "cpu",
    variant: str = "",
) -> None:
    """Print the results of the benchmark `name`, and keep them as a table and as JSON.

    `variant` is what the options of its command line chose, for the names of the files.
    """
    stem = "_".join(filter(None, [name, variant, device.replace("cpu", "")]))
    command = " ".join([f"benchmarks.{name}", *sys.argv[1:]])
    rows = [row for result in results for row in result.rows()]
    parts = [tabulate(rows, HEADER, tablefmt="github", disable_numparse=True)] if rows else []
    parts += [f"- {remark}" for remark in remarks]
    parts.append(f"Measured with `python -m {command}` on {machine(device)}.")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    if growths:
        _plot(growths, OUTPUT / f"{stem}.png")
        parts.append(f"![How {stem} grows](images/{stem}.png)")
    text = "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"
    print(text)
    (OUTPUT / f"{stem}.md").write_text(text)
    found = {
        "command": f"python -m {command}",
        "machine": machine(device),
        "results": [row for result in results for row in result.values()],
        "remarks": list(remarks),
    }
    (OUTPUT / f"{stem}.json").write_text(json.dumps(found, indent=1))
    for row in found["results"]:
        if row["difference from ours"].startswith(DIFFERS):
            raise SystemExit(f"{row['contender']}, {row['case']}: {row['difference from ours']}")
    print(f"Kept in {OUTPUT / stem}.md; `python -m benchmarks.report` puts it into {DOCUMENT}.")


def _plot(growths: Sequence[Growth], path: Path) -> None:
    # Names stand beside the panels, where they hide no line, once for all that have the same.
    named = [
        i for i, g in enumerate(growths) if i == 0 or [*g.seconds] != [*growths[i - 1].seconds]
    ]
    size = (3.6 * len(growths) + 2.8 * len(named), 3.4)
    figure, panels = plt.subplots(
        1, len(growths), figsize=size, squeeze=False, layout="constrained"
    )
    for i, (panel, growth) in enumerate(zip(panels[0], growths, strict=True)):
        for name, seconds in growth.seconds.items():
            panel.plot(growth.values, [1e3 * s for s in seconds], marker="o", label=name)
        panel.set(xlabel=growth.size, xscale="log", yscale="log")
        panel.set_xticks(growth.values, [f"{value:g}" for value in growth.values])
        panel.yaxis.set(
            major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=StrMethodFormatter("{x:g}")
        )
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        if i in named:
            panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[0][0].set_ylabel("milliseconds")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    for path in sorted(OUTPUT.glob("*.md")):
        write_section(DOCUMENT, path.stem, path.read_text())
    for path in OUTPUT.glob("*.png"):
        shutil.copy(path, IMAGES)


if __name__ == "__main__":
    main()
