"""Reading the files of one record, all of them: what is wrong, what is unusual, what it holds."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as coco_mask
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from mask_former.data.geometry import run_lengths_of
from mask_former.data.label_map import count_pixels
from mask_former.data.mapper import (
    InstanceAnnotation,
    PanopticAnnotation,
    SemanticAnnotation,
    annotation_type,
)
from mask_former.data.reading import read_header, read_image
from mask_former.data.records import (
    Record,
    image_size,
    read_annotations,
    read_label_map,
    read_segment_map,
)
from mask_former.errors import MissingFileError, UserError

# Intersection over union of the masks of two instances from which on they are a remark, ...
OVERLAP = 0.5
# ... or, of one class, the same object twice.
DUPLICATE = 0.9


class Fault(NamedTuple):
    """What is wrong.

    Attributes:
        kind: "missing" (file), "image", "annotation" (label map, PNG or masks of an image), "json"
            (entry of an annotation file) or "data set".
        file: the image that it belongs to; of the other kinds the data set.
        message: names the place, the value and the way out.
    """

    kind: str
    file: str
    message: str


@contextmanager
def kept_faults(faults: list[Fault], kind: str, file: str) -> Iterator[None]:
    """Keep the error of a user in this block as one of the `faults`."""
    try:
        yield
    except UserError as error:
        kind = "missing" if isinstance(error, MissingFileError) else kind
        faults.append(Fault(kind, file, str(error)))


class Remark(NamedTuple):
    """What is unusual, and may be a mistake: `kind`, the image's `file` and a `message`."""

    kind: str
    file: str
    message: str


@dataclass
class Inspection:
    """What was found in the files of a record.

    Attributes:
        file: the image.
        faults, remarks: what is wrong, and what is unusual.
        size: height and width of the image; None: unknown.
        classes: contiguous class of each segment (N,); crowds are none. Of a semantic annotation
            each class that is present is one.
        areas: pixels of each segment, int64 (N,).
        pixels: annotated ones of the image, those of segments and crowds.
        digest: of the image file: equal files have equal ones.
    """

    file: str
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    size: tuple[int, int] | None = None
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: int = 0
    digest: bytes = b""

    def remark(self, kind: str, message: str) -> None:
        """Add a remark on this record."""
        self.remarks.append(Remark(kind, self.file, message))


@dataclass(frozen=True)
class Inspector:
    """Inspects records; it travels to other processes.

    Args:
        mapper_name: INPUT.DATASET_MAPPER_NAME, which says what kind of annotation is read.
        num_classes: K; labels outside of [0, K) are faults ...
        ignore_value: ... but for this one.
        exif: whether the orientation of EXIF is applied to images.
    """

    mapper_name: str
    num_classes: int
    ignore_value: int
    exif: bool

    @classmethod
    def from_config(cls, cfg: CfgNode, num_classes: int) -> "Inspector":
        return cls(
            cfg.INPUT.DATASET_MAPPER_NAME,
            num_classes,
            cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            cfg.INPUT.EXIF_ORIENTATION,
        )

    def __call__(self, record: Record) -> Inspection:
        """Read the image and the annotation of a record. Each file is looked at, whatever is wrong
        with the others; of one file the first fault counts."""
        found = Inspection(str(record["file_name"]))
        with kept_faults(found.faults, "image", found.file):
            header = read_header(found.file)
            found.size = header.shown(self.exif)
            if header.orientation > 1 and header.shown(True) == header.size:
                applied = "applied" if self.exif else "not applied"
                found.remark(
                    "orientation",
                    f"EXIF orientation {header.orientation} is {applied}. Is the annotation of "
                    "the picture as it is then? Sizes do not show it; "
                    f"INPUT.EXIF_ORIENTATION {not self.exif} is the other way",
                )
            with PathManager.open(found.file, "rb") as file:
                found.digest = hashlib.blake2b(file.read(), digest_size=16).digest()
            read_image(found.file, "RGB", size=image_size(record), exif=self.exif)
        with kept_faults(found.faults, "annotation", found.file):
            size = image_size(record) or found.size or _size_of_annotation(record)
            _READERS[annotation_type(self.mapper_name)](self, record, size, found)
        if not found.faults and not len(found.classes):
            key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
            left_out = f"no segment: a training leaves it out, unless {key} is False"
            nothing = "no segment: nothing is learned from it"
            found.remark("empty", left_out if "annotations" in record else nothing)
        return found

    def _semantic(self, record: Record, size: tuple[int, int], found: Inspection) -> None:
        labels, pixels = count_pixels(
            read_label_map(record, size, self.num_classes, self.ignore_value)
        )
        kept = labels != self.ignore_value
        found.classes, found.areas = labels[kept].astype(np.int64), pixels[kept]
        found.pixels = int(found.areas.sum())

    def _panoptic(self, record: Record, size: tuple[int, int], found: Inspection) -> None:
        numbers, pixels = count_pixels(read_segment_map(record, size, self.num_classes))
        segments = record["segments_info"]
        areas = np.zeros(len(segments) + 1, np.int64)
        areas[numbers] = pixels
        areas = areas[1:]
        found.pixels = int(areas.sum())
        for segment, area in zip(segments, areas, strict=True):
            if not area:
                found.remark(
                    "invisible", f"segment {segment['id']} of the JSON has no pixel in the PNG"
                )
        found.classes, found.areas = _countable(segments, areas)

    def _instances(self, record: Record, size: tuple[int, int], found: Inspection) -> None:
        annotations = read_annotations(record, size, self.num_classes)
        masks = [run_lengths_of(a["segmentation"], size) for a in annotations]
        areas = coco_mask.area(masks).astype(np.int64) if masks else np.zeros(0, np.int64)
        found.pixels = int(coco_mask.area(coco_mask.merge(masks))) if masks else 0
        found.classes, found.areas = _countable(annotations, areas)
        kept = [i for i, a in enumerate(annotations) if areas[i] and not a.get("iscrowd")]
        for i, j, iou in _overlapping([masks[i] for i in kept]):
            first, second = annotations[kept[i]], annotations[kept[j]]
            same = iou >= DUPLICATE and first["category_id"] == second["category_id"]
            found.remark(
                "duplicate" if same else "overlap",
                f"annotations {first.get('id', kept[i])} and {second.get('id', kept[j])} share "
                f"{iou:.0%} of their union",
            )


_READERS: dict[type, Callable[[Inspector, Record, tuple[int, int], Inspection], None]] = {
    SemanticAnnotation: Inspector._semantic,
    PanopticAnnotation: Inspector._panoptic,
    InstanceAnnotation: Inspector._instances,
}


def _countable(segments: list[dict[str, Any]], areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and area of the segments that are learned: visible ones, but no crowds."""
    classes = np.array([segment["category_id"] for segment in segments], np.int64)
    crowds = np.array([bool(segment.get("iscrowd")) for segment in segments], bool)
    kept = ~crowds & (areas > 0)
    return classes[kept], areas[kept]


def _overlapping(masks: list[dict[str, Any]]) -> Iterator[tuple[int, int, float]]:
    """The pairs of masks that overlap by at least `OVERLAP`, and how much."""
    if len(masks) < 2:
        return
    iou = np.triu(coco_mask.iou(masks, masks, [0] * len(masks)), k=1)
    for i, j in np.argwhere(iou >= OVERLAP).tolist():
        yield i, j, float(iou[i, j])


def _size_of_annotation(record: Record) -> tuple[int, int]:
    """Height and width of the annotation's file, where the image's are unknown."""
    for key in ("pan_seg_file_name", "sem_seg_file_name"):
        if record.get(key):
            return read_header(record[key]).size
    raise UserError(f"{record['file_name']}: the size of its annotation is unknown.")
