"""Read all files of a config's training and test sets, and report all that is wrong with them.

    python -m tools.check_dataset CONFIG [--sheet sheet.png] [--json report.json] [KEY VALUE ...]

A training reads only a part of its files before it starts (docs/CHECKS.md). This reads all of them,
on all cores, does not end at the first fault, and shows what the data sets hold. Exit code 0: no
fault; 2: there are faults.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate

import mask_former  # noqa: F401  (registers the components and the data sets)
from mask_former.data.inspection import Fault, Remark
from mask_former.data.report import DatasetReport, examine
from mask_former.data.writing import write_image, write_json
from mask_former.engine import load_config, reported_errors
from mask_former.engine.errors import EXIT_CODE
from mask_former.errors import listed
from mask_former.visualization import ground_truth_sheet

# What the kinds of faults and remarks are called in the report.
FAULTS = {
    "data set": "of the data set",
    "json": "in the annotation file",
    "missing": "missing files",
    "image": "images that cannot be read, or have another size",
    "annotation": "annotations that cannot be read, or do not fit",
}
REMARKS = {
    "annotations": "about the annotations",
    "class": "classes that never occur",
    "queries": "more segments than queries",
    "empty": "images without a segment",
    "orientation": "pictures that EXIF turns",
    "invisible": "segments of the JSON that the PNG lacks",
    "duplicate": "instances that seem to be annotated twice",
    "overlap": "instances that overlap",
    "copy": "pictures that occur twice",
    "leak": "pictures that are trained on and evaluated",
}
# Entries of a kind that are printed; --json has all.
SHOWN = 10
BAR = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", metavar="CONFIG", help="the model's yaml file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config options")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="draw images with their annotations, as PNG"
    )
    parser.add_argument(
        "--pictures", type=int, default=16, help="of each data set on the sheet (%(default)s)"
    )
    parser.add_argument("--limit", type=int, help="images of each data set; default: all")
    parser.add_argument("--workers", type=int, help="processes; default: one per CPU")
    args = parser.parse_intermixed_args(argv)
    with reported_errors():
        cfg = load_config(args.config, args.opts)
        reports = examine(cfg, workers=args.workers, limit=args.limit)
        for report in reports:
            print(describe(report))
        if args.json:
            write_json(args.json, [report.as_dict() for report in reports])
            print(f"Everything: {args.json}")
        if args.sheet and (sheet := draw_sheet(cfg, reports, args.pictures)) is not None:
            write_image(args.sheet, sheet, "BGR")
            print(f"Contact sheet: {args.sheet}")
    faults = sum(len(report.all_faults()) for report in reports)
    remarks = sum(len(report.all_remarks()) for report in reports)
    print(f"Faults: {faults}. Remarks: {remarks}.")
    return EXIT_CODE if faults else 0


def describe(report: DatasetReport) -> str:
    """The report in words and histograms."""
    seen = len(report.inspections)
    of_them = f", of which {seen} were read" if seen < report.num_images else ""
    parts = [f"\n{report.name}: {report.num_images} images{of_them}"]
    if report.inspections:
        parts += [
            f"{report.annotated_share():.1%} of the pixels are annotated.",
            _heading("Sizes (width x height)") + _sizes(report),
            _heading(_segments_title(report)) + _histogram(report.segments_per_image()),
            _heading("Segments by their side in pixels, the square root of the area")
            + _doublings(np.sqrt(report.segment_areas())),
            _heading("Classes") + _classes(report),
        ]
    parts += _entries("Faults", report.name, report.all_faults(), FAULTS)
    parts += _entries("Remarks", report.name, report.all_remarks(), REMARKS)
    return "\n".join(parts)


def _heading(title: str) -> str:
    return f"\n{title}\n"


def _segments_title(report: DatasetReport) -> str:
    counts = report.segments_per_image()
    title = f"Segments an image: {counts.mean():.1f} on average, {counts.max()} at most"
    return title + (f"; the model has {report.num_queries} queries" if report.num_queries else "")


def _bar(value: float, largest: float) -> str:
    return "█" * max(round(BAR * value / largest), 1) if value else ""


def _sizes(report: DatasetReport) -> str:
    """Each size where there are few, else the sides of the images."""
    sizes = report.sizes()
    if not sizes:
        return "unknown"
    if len(sizes) <= 8:
        names = [f"{width} x {height}" for (height, width), _ in sizes.most_common()]
        return _bars(names, sorted(sizes.values(), reverse=True))
    sides = np.repeat(np.array(list(sizes)), list(sizes.values()), axis=0)
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    return f"shorter side\n{_histogram(shorter)}\nlonger side\n{_histogram(longer)}"


def _doublings(values: np.ndarray) -> str:
    """How many of the numbers, at least 1, lie between two powers of 2."""
    if not len(values):
        return "none"
    exponents = np.floor(np.log2(values)).astype(np.int64)
    first = int(exponents.min())
    counts = np.bincount(exponents - first).tolist()
    names = [f"{2**e}..{2 ** (e + 1) - 1}" for e in range(first, first + len(counts))]
    return _bars(names, counts)


def _histogram(values: np.ndarray, bins: int = 8) -> str:
    """How many of the whole numbers lie in which of some ranges of one width."""
    if not len(values):
        return "none"
    low, high = int(values.min()), int(values.max())
    step = max(-(-(high + 1 - low) // bins), 1)
    counts = np.bincount((values - low) // step)
    starts = [low + step * i for i in range(len(counts))]
    names = [str(a) if step == 1 else f"{a}..{a + step - 1}" for a in starts]
    return _bars(names, counts.tolist())


def _bars(names: Sequence[str], counts: Sequence[int]) -> str:
    rows = [(n, c, _bar(c, max(counts))) for n, c in zip(names, counts, strict=True)]
    return tabulate(rows, tablefmt="plain", colalign=("right", "right", "left"))


def _classes(report: DatasetReport) -> str:
    entries = report.class_counts()
    total = max(sum(entry["pixels"] for entry in entries), 1)
    largest = max(entry["images"] for entry in entries) or 1
    rows = [
        (
            number,
            entry["name"],
            entry["images"],
            entry["segments"],
            f"{entry['pixels'] / total:.2%}",
            _bar(entry["images"], largest),
        )
        for number, entry in enumerate(entries)
    ]
    return tabulate(rows, ["", "class", "images", "segments", "pixels", ""], tablefmt="simple")


def _entries(
    title: str,
    dataset: str,
    entries: Sequence[Fault] | Sequence[Remark],
    names: dict[str, str],
) -> list[str]:
    """The faults or remarks by their kind, the first few of each; what is the same of several
    files is said once."""
    lines = [_heading(title).rstrip()] if entries else []
    files: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        files[entry.kind][entry.message].append(entry.file)
    for kind in sorted(files, key=list(names).index):
        messages = list(files[kind].items())
        lines.append(f"  {names[kind]}: {sum(len(found) for _, found in messages)}")
        for message, found in messages[:SHOWN]:
            known = found[0] == dataset or found[0] in message
            lines.append(f"    {message}" if known else f"    {listed(found, 3)}: {message}")
        if len(messages) > SHOWN:
            more = sum(len(found) for _, found in messages[SHOWN:])
            lines.append(f"    ... and {more} more (--json FILE has all)")
    return lines


def draw_sheet(cfg: CfgNode, reports: Sequence[DatasetReport], pictures: int) -> np.ndarray | None:
    """Annotated images of all data sets, uint8 (H, W, 3), BGR; None: there is none without a
    fault."""
    sheets = []
    for report in reports:
        if examples := report.examples(pictures):
            title = f"{report.name}: {len(examples)} of {report.num_images} images"
            metadata = MetadataCatalog.get(report.name)
            exif = cfg.INPUT.EXIF_ORIENTATION
            sheets.append(ground_truth_sheet(examples, metadata, title, exif=exif))
    if not sheets:
        return None
    width = max(sheet.shape[1] for sheet in sheets)
    white = {"mode": "constant", "constant_values": 255}
    return np.vstack(
        [np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), **white) for sheet in sheets]
    )


if __name__ == "__main__":
    sys.exit(main())
