"""What the benchmarks found: printed, kept under output/benchmarks, and put into the document.

    python -m benchmarks.report

writes the tables and plots of all benchmarks that were run into docs/PERFORMANCE.md, each between
its own two marks; one without marks, say of another device, gets a section at the end.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, StrMethodFormatter
from tabulate import tabulate

from benchmarks.measure import Timing, machine

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "output/benchmarks"
DOCUMENT = ROOT / "docs/PERFORMANCE.md"
IMAGES = ROOT / "docs/images"
HEADER = ["", "", "time", "ours takes 1/x of it", "peak memory", "difference from ours"]


@dataclass(frozen=True)
class Result:
    """One case of a benchmark.

    Attributes:
        case: what was done.
        ours: name of our contender, which the others are compared with.
        timings: of all contenders, in the order of the table.
        agreement: by contender, how its result differs from ours, in words or as a number.
        target: what was aimed at, in words; "" without one.
    """

    case: str
    ours: str
    timings: dict[str, Timing]
    agreement: dict[str, str] = field(default_factory=dict)
    target: str = ""

    @classmethod
    def beside(
        cls,
        case: str,
        ours: str,
        timings: Mapping[str, Timing],
        peers: Sequence[str],
        target: str = "",
    ) -> "Result":
        """Ours and `peers` alone, of more contenders that took turns."""
        return cls(case, ours, {name: timings[name] for name in (ours, *peers)}, target=target)

    def rows(self) -> list[list[str]]:
        ours = self.timings[self.ours]
        rows = []
        for name, timing in self.timings.items():
            faster = "" if name == self.ours else f"{ours.speedup(timing):.2f}"
            peak = "" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:.1f} MiB"
            agreement = self.agreement.get(name, "")
            rows.append(["", name, f"{timing.median * 1e3:.1f} ms", faster, peak, agreement])
        rows[0][0] = self.case + (f" (target: {self.target})" if self.target else "")
        return rows


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


def report(
    name: str,
    results: Sequence[Result],
    growths: Sequence[Growth] = (),
    *,
    remarks: Sequence[str] = (),
    device: str = "cpu",
    variant: str = "",
) -> None:
    """Print the results of the benchmark `name` and keep them for the document.

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
        _plot(growths, OUTPUT / f"performance_{stem}.png")
        parts.append(f"![How {stem} grows](images/performance_{stem}.png)")
    text = "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"
    print(text)
    (OUTPUT / f"{stem}.md").write_text(text)
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
    text = DOCUMENT.read_text()
    for path in sorted(OUTPUT.glob("*.md")):
        block = re.compile(rf"(<!-- {path.stem} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not block.search(text):
            text += f"\n## {path.stem}\n\n<!-- {path.stem} -->\n<!-- end -->\n"
        found = path.read_text()
        text = block.sub(lambda match, found=found: f"{match[1]}\n{found}\n{match[2]}", text)
    DOCUMENT.write_text(text)
    for path in OUTPUT.glob("*.png"):
        shutil.copy(path, IMAGES)


if __name__ == "__main__":
    main()
