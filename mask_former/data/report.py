"""What is in a data set, and what is wrong with it: all of its records, read on all cores."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from mask_former.data.agreement import check_agreement, check_classes, classes_of
from mask_former.data.datasets.catalog import check_dataset
from mask_former.data.datasets.preparing import run_jobs
from mask_former.data.inspection import Fault, Inspection, Inspector, Remark, kept_faults
from mask_former.data.json_files import forget_files
from mask_former.data.occurrence import (
    annotation_remarks,
    crowded_images,
    learning_queries,
    missing_classes,
)
from mask_former.data.records import Record, check_pairs, evenly, load_records
from mask_former.errors import UserError, collected_faults

_IMAGES_PER_PROCESS = 100


@dataclass
class DatasetReport:
    """What was found in a data set.

    Attributes:
        name: of the data set.
        classes: names by contiguous id.
        num_queries: of the model; 0: it has none.
        num_images: of the data set.
        records: those whose files are read.
        inspections: of the records, in the same order.
        faults, remarks: what is wrong with the data set as a whole.
    """

    name: str
    classes: Sequence[str] = ()
    num_queries: int = 0
    num_images: int = 0
    records: Sequence[Record] = ()
    inspections: list[Inspection] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def all_faults(self) -> list[Fault]:
        """Those of the data set, then those of its records."""
        return [*self.faults, *(fault for found in self.inspections for fault in found.faults)]

    def all_remarks(self) -> list[Remark]:
        """Those of the data set, then those of its records."""
        return [*self.remarks, *(remark for found in self.inspections for remark in found.remarks)]

    def class_counts(self) -> list[dict[str, Any]]:
        """Of each class its `name`, and the `images`, `segments` and `pixels` that it has."""
        counts = np.zeros((3, len(self.classes)), np.int64)
        for found in self.inspections:
            counts[0, np.unique(found.classes)] += 1
            np.add.at(counts[1], found.classes, 1)
            np.add.at(counts[2], found.classes, found.areas)
        return [
            {"name": name, "images": images, "segments": segments, "pixels": pixels}
            for name, (images, segments, pixels) in zip(
                self.classes, counts.T.tolist(), strict=True
            )
        ]

    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have a size (height, width)."""
        return Counter(found.size for found in self.inspections if found.size)

    def segments_per_image(self) -> np.ndarray:
        """The number of segments of each image, int64 (N,)."""
        return np.array([len(found.classes) for found in self.inspections], np.int64)

    def segment_areas(self) -> np.ndarray:
        """The pixels of each segment, int64 (N,)."""
        return np.concatenate([np.zeros(0, np.int64), *(f.areas for f in self.inspections)])

    def annotated_share(self) -> float:
        """The share of pixels of segments and crowds, in 0..1, of images without a fault."""
        sound = [found for found in self.inspections if not found.faults]
        total = sum(found.size[0] * found.size[1] for found in sound)
        return sum(found.pixels for found in sound) / total if total else 0.0

    def examples(self, count: int) -> list[Record]:
        """Records to look at: one with each class, the rarest classes first, and others evenly from
        the first to the last. Those with faults are left out."""
        sound = [i for i, found in enumerate(self.inspections) if not found.faults]
        chosen: dict[int, None] = {}
        rarest = np.argsort([entry["images"] for entry in self.class_counts()], kind="stable")
        for label in rarest.tolist():
            having = [i for i in sound if (self.inspections[i].classes == label).any()]
            if having and len(chosen) < count and not any(i in chosen for i in having):
                chosen[having[len(having) // 2]] = None
        others = [i for i in sound if i not in chosen]
        chosen.update(dict.fromkeys(evenly(others, count - len(chosen))))
        return [self.records[i] for i in sorted(chosen)]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the records, serializable as JSON."""
        segments = Counter(self.segments_per_image().tolist())
        return {
            "name": self.name,
            "num_images": self.num_images,
            "num_read": len(self.inspections),
            "num_queries": self.num_queries,
            "faults": [fault._asdict() for fault in self.all_faults()],
            "remarks": [remark._asdict() for remark in self.all_remarks()],
            "classes": self.class_counts(),
            "annotated_share": self.annotated_share(),
            "sizes": [
                {"height": height, "width": width, "images": count}
                for (height, width), count in sorted(self.sizes().items())
            ],
            "segments_per_image": [
                {"segments": number, "images": segments[number]} for number in sorted(segments)
            ],
        }


def examine(
    cfg: CfgNode, *, workers: int | None = None, limit: int | None = None
) -> list[DatasetReport]:
    """Read all files of all training and test sets of `cfg`, with a progress bar.

    Args:
        cfg: what annotations are, their classes and what is ignored follow from it.
        workers: number of processes; None: one per CPU.
        limit: of the images of each set, evenly from the first to the last; None: all.

    Returns:
        a report for each data set.

    Raises:
        UserError: there is no data set.
    """
    names = list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    if not names:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are empty: there is nothing to check.")
    reports = [_read_annotations(cfg, name) for name in names]
    if not any(fault.kind == "data set" for report in reports for fault in report.faults):
        with kept_faults(reports[-1].faults, "data set", reports[-1].name):
            check_agreement(cfg, names)
    for report in reports:
        report.num_images = len(report.records)
        if limit is not None:
            report.records = evenly(report.records, limit)
    jobs = []
    for report in reports:
        inspector = Inspector.from_config(cfg, len(report.classes))
        jobs += [(inspector, record) for record in report.records]
    if workers is None:  # starting a process takes as long as reading many images
        workers = min(os.cpu_count() or 1, 1 + len(jobs) // _IMAGES_PER_PROCESS)
    results = run_jobs(_inspect, jobs, workers)
    results = iter(list(tqdm(results, "Reading all files", len(jobs), unit="image")))
    for report in reports:
        report.inspections += islice(results, len(report.records))
        report.remarks += _remarks(report)
    _add_shared_images(cfg, reports)
    return reports


def _inspect(job: tuple[Inspector, Record]) -> Inspection:
    inspector, record = job
    return inspector(record)


def _read_annotations(cfg: CfgNode, name: str) -> DatasetReport:
    """A report with what can be known without the files of the records."""
    report = DatasetReport(name, num_queries=learning_queries(cfg))
    said: list[str] = []
    with (
        _logged_warnings(said),
        collected_faults() as faults,
        kept_faults(report.faults, "data set", name),
    ):
        check_dataset(name)
        report.classes = classes_of(cfg, name)
        report.records = load_records(name)
        said += annotation_remarks(cfg, name)
    forget_files()  # of which entries are left out
    report.remarks += [Remark("annotations", name, remark) for remark in said]
    report.faults += [Fault("json", name, str(error)) for error in faults]
    if report.classes:
        with kept_faults(report.faults, "data set", name):
            check_classes(cfg, name)
        with kept_faults(report.faults, "data set", name):
            check_pairs(report.records)
    return report


@contextmanager
def _logged_warnings(said: list[str]) -> Iterator[None]:
    """Add to `said` what loading a data set warns of, such as images without a label map."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("mask_former.data")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _remarks(report: DatasetReport) -> Iterator[Remark]:
    """Remarks on the data set as a whole."""
    found = {label for found in report.inspections for label in found.classes.tolist()}
    for what in missing_classes(report.classes, found):
        yield Remark("class", report.name, what)
    for what in crowded_images(report.segments_per_image(), report.num_queries):
        yield Remark("queries", report.name, what)
    first: dict[bytes, str] = {}
    for found in report.inspections:
        if found.digest and first.setdefault(found.digest, found.file) != found.file:
            yield Remark("copy", found.file, f"the same picture as {first[found.digest]}")


def _add_shared_images(cfg: CfgNode, reports: Sequence[DatasetReport]) -> None:
    """Remark on the images of test sets that are trained on."""
    digests = {
        report.name: {found.digest: found.file for found in report.inspections}
        for report in reports
    }
    trained = {}
    for name in cfg.DATASETS.TRAIN:
        trained.update(digests[name])
    for report in reports:
        if report.name in cfg.DATASETS.TEST and report.name not in cfg.DATASETS.TRAIN:
            report.remarks += [
                Remark("leak", file, f"is evaluated and trained on, as {trained[digest]}")
                for digest, file in digests[report.name].items()
                if digest and digest in trained
            ]
