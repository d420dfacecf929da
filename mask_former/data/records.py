"""Reading the annotations of records. Every error names the file that is wrong."""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mask_former.data.coco_json import CheckedAnnotations
from mask_former.data.datasets.catalog import check_dataset, load_registered
from mask_former.data.datasets.of_detectron2 import read_by_ourselves
from mask_former.data.geometry import Masked, check_masks, check_size
from mask_former.data.label_map import run_lengths
from mask_former.data.reading import check_same_size, read_ids, read_label_image, read_labels
from mask_former.errors import UserError, listed

Record = Mapping[str, Any]

logger = logging.getLogger(__name__)

# Number of records of a data set whose files are read to check them.
NUM_CHECKED_FILES = 8


def load_records(name: str, *, filter_empty: bool = False) -> list[dict[str, Any]]:
    """The records of a registered data set.

    Args:
        name: of the data set.
        filter_empty: whether images that have `annotations`, but none to learn from, are left out.

    Raises:
        FileNotFoundError: files of the data set are missing.
        UserError: there is no record, or an annotation file is wrong.
    """
    check_dataset(name)
    read_by_ourselves(name)
    records = load_registered(name)
    for index, record in enumerate(records):
        if not isinstance(record, Mapping) or not isinstance(record.get("file_name"), str | Path):
            raise UserError(f"Record {index} of data set {name!r} has no 'file_name': {record!r}")
    if filter_empty and any("annotations" in record for record in records):
        found = len(records)
        records = [
            r for r in records if not all(a.get("iscrowd") for a in r.get("annotations", ()))
        ]
        if len(records) < found:
            logger.info(
                "%s: %d images without annotations are left out; to learn from them that nothing "
                "is there, set DATALOADER.FILTER_EMPTY_ANNOTATIONS to False",
                name,
                found - len(records),
            )
    if not records:
        raise UserError(f"Data set {name!r} holds no annotated image.")
    return records


def unique_records(
    name: str, records: Iterable[Record], key: str, annotation: str
) -> dict[Any, Record]:
    """Records by `record[key]`.

    Raises:
        UserError: two with one key name different files as `annotation`.
    """
    found: dict[Any, Record] = {}
    for record in records:
        first = found.setdefault(required_field(record, key), record)
        if first[annotation] != record[annotation]:
            raise UserError(
                f"Data set {name!r}: two records have the {key} {record[key]!r}, one with the "
                f"{annotation} {first[annotation]}, one with {record[annotation]}."
            )
    return found


def check_in_memory(records: Sequence[Record], num_classes: int) -> None:
    """Check what is in memory of all records of a data set.

    Raises:
        UserError: a category id outside of [0, num_classes); a mask that is none (see
            `geometry.py`); a label map that seems to be another image's.
    """
    check_pairs(records)
    for record in records:
        segments = segments_of(record)
        ids = (required_field(record, "category_id", segment) for segment in segments)
        check_category_ids(record["file_name"], ids, num_classes)
    check_masks(
        Masked(annotation, size, partial(annotation_place, record, annotation))
        for record in records
        if not isinstance(record.get("annotations", ()), CheckedAnnotations)
        and (size := image_size(record))
        for annotation in record.get("annotations", ())
    )


def check_pairs(records: Sequence[Record]) -> None:
    """Where most label maps have the name of their image, all have: Detectron2's `load_sem_seg`
    pairs files by their order, so that one that is missing shifts all that follow."""
    pairs = [
        (record["file_name"], record["sem_seg_file_name"])
        for record in records
        if "sem_seg_file_name" in record
    ]
    wrong = [pair for pair in pairs if _stem(pair[0]) != _stem(pair[1])]
    if wrong and len(wrong) < len(pairs):
        raise UserError(
            f"{len(wrong)} of {len(pairs)} label maps have another name than their image, such as "
            f"{wrong[0][1]} for {wrong[0][0]}. Is an image or a label map missing, so that the "
            "following are paired wrongly?"
        )


def _stem(path: str | Path) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def segments_of(record: Record) -> Sequence[dict[str, Any]]:
    """The annotated instances or segments of a record."""
    return record.get("annotations") or record.get("segments_info") or ()


def check_a_few(records: Collection[Record], check: Callable[[Record], Any]) -> None:
    """Call `check` on a few of the records, from the first to the last.

    Raises:
        UserError: there is no record.
    """
    if not records:
        raise UserError("there is no record with an annotation of this kind.")
    for record in evenly(records, NUM_CHECKED_FILES):
        check(record)


def evenly(items: Collection[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly from the first to the last."""
    items = list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items)), dtype=int)]


def image_size(record: Record) -> tuple[int, int] | None:
    """Height and width that a record says its image has; None if it does not."""
    if record.get("height") is None or record.get("width") is None:
        return None
    return check_size(record["height"], record["width"], f"the record of {record['file_name']}")


def read_label_map(
    record: Record, size: tuple[int, int], num_classes: int, ignore_value: int
) -> np.ndarray:
    """Read `record`'s semantic annotation: the class of each pixel, (H, W).

    It is uint8 where that holds the file's labels and the ignore value, and otherwise int32.

    Args:
        record: has `file_name` and `sem_seg_file_name`, and maybe `label_encoding`.
        size: height and width of the record's image.
        num_classes: labels must lie in [0, num_classes) ...
        ignore_value: ... or be this.

    Raises:
        FileNotFoundError, UserError: the file is missing, broken, of another size, or holds
            other labels.
    """
    file_name = required_field(record, "sem_seg_file_name")
    labels = read_encoded_labels(record)
    bytes_suffice = labels.itemsize == 1 and 0 <= ignore_value < 256
    labels = labels.astype(np.uint8 if bytes_suffice else np.int32)
    check_same_size(file_name, labels.shape, record["file_name"], size)
    wrong = (labels != ignore_value) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise UserError(
            f"{file_name} holds the labels {listed(np.unique(labels[wrong]))}, but labels must "
            f"lie in 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}) or be "
            f"{ignore_value} (MODEL.SEM_SEG_HEAD.IGNORE_VALUE)."
        )
    return labels


def read_encoded_labels(record: Record) -> np.ndarray:
    """The labels of `record`'s semantic annotation, bool, uint8, uint16 or int32 (H, W), as its
    `label_encoding` says; without one they are the values of the file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is broken, in a lossy format, or its values have no meaning.
    """
    file_name = required_field(record, "sem_seg_file_name")
    encoding = record.get("label_encoding")
    if encoding is None:
        return read_labels(file_name)
    return encoding.decode(read_label_image(file_name), file_name)


def read_id_map(record: Record, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Read `record`'s panoptic annotation: the segment id of each pixel, int32 (H, W), 0 = none.

    Arguments and errors are those of `read_segment_map`.
    """
    numbers = read_segment_map(record, size, num_classes)
    ids = [0] + [segment["id"] for segment in record["segments_info"]]
    return np.array(ids, dtype=np.int32)[numbers]


def read_segment_map(record: Record, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Read `record`'s panoptic annotation: the number of each pixel's segment, (H, W).

    They are counted from 1 in the order of `segments_info`; 0 = none. The map is uint8 if there
    are few enough of them, and otherwise int32.

    Args:
        record: has `file_name`, `segments_info` and `pan_seg_file_name`, a PNG in COCO's format
            (id = R + 256 G + 65536 B).
        size: height and width of the record's image.
        num_classes: category ids must lie in [0, num_classes).

    Raises:
        FileNotFoundError, UserError: the file is missing, broken, of another size, or holds ids
            that are not in `segments_info`; or an id is listed twice, or a category id is out of
            range.
    """
    file_name = required_field(record, "pan_seg_file_name")
    segments = required_field(record, "segments_info")
    check_category_ids(file_name, (segment["category_id"] for segment in segments), num_classes)
    id_map = read_ids(file_name)
    check_same_size(file_name, id_map.shape, record["file_name"], size)
    of_image = f"segments_info of image {record.get('image_id')}"
    ids = np.array([0] + [segment["id"] for segment in segments])
    order = np.argsort(ids)
    if (np.diff(ids[order]) == 0).any():
        raise UserError(
            f"{file_name}: the {of_image} lists the segment ids {listed(ids[1:])}, but every "
            "segment has one of its own, and none is 0."
        )
    (found,), lengths = run_lengths(id_map)
    numbers = order[np.searchsorted(ids, found, sorter=order).clip(max=len(segments))]
    unknown = ids[numbers] != found
    if unknown.any():
        raise UserError(
            f"{file_name} holds the segment ids {listed(np.unique(found[unknown]))}, not in the "
            f"{of_image}. Do PNG and JSON belong together?"
        )
    numbers = numbers.astype(np.uint8 if len(ids) <= 256 else np.int32)
    return numbers.repeat(lengths).reshape(id_map.shape)


def read_annotations(record: Record, size: tuple[int, int], num_classes: int) -> list[dict]:
    """The instance annotations of `record`, checked.

    Args:
        record: has `file_name` and `annotations` in Detectron2's format.
        size: height and width of the record's image.
        num_classes: category ids must lie in [0, num_classes).

    Raises:
        UserError: an annotation has no mask, a mask of another size, or a category id out of
            range.
    """
    annotations = [dict(annotation) for annotation in required_field(record, "annotations")]
    file_name = record["file_name"]
    check_category_ids(file_name, (a["category_id"] for a in annotations), num_classes)
    check_masks(Masked(a, size, partial(annotation_place, record, a)) for a in annotations)
    return annotations


def annotation_place(record: Record, annotation: Mapping[str, Any]) -> str:
    """What an annotation is called in an error message."""
    return f"{record['file_name']}: annotation {annotation.get('id', '')}".rstrip()


def check_category_ids(file_name: str, category_ids: Iterable[int], num_classes: int) -> None:
    """Raise UserError unless all `category_ids` lie in [0, num_classes)."""
    wrong = [id_ for id_ in category_ids if type(id_) is not int or not 0 <= id_ < num_classes]
    if wrong:
        ids = listed(sorted(set(wrong), key=str))
        raise UserError(
            f"{file_name} is annotated with the category ids {ids}, but contiguous ids "
            f"must lie in 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes})."
        )


def required_field(record: Record, key: str, entry: Record | None = None) -> Any:
    """`record[key]`, or that of an `entry` in it.

    Raises:
        UserError: there is none; says which kind of data set has one.
    """
    if key not in (record if entry is None else entry):
        raise UserError(
            f"{record['file_name']}: its record has no {key!r}. Choose INPUT.DATASET_MAPPER_NAME "
            "for the kind of annotation that the data set has, or another data set."
        )
    return record[key] if entry is None else entry[key]
