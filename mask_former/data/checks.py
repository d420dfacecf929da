"""What is checked about the data, and when. docs/CHECKS.md lists all of it.

Before anything is written, `check_data` looks at all training and test sets:

- the metadata: files and folders exist, classes agree in number, name and order (`agreement.py`);
- the annotations in memory, all of them: `coco_json.py` as they are read, then `check_records`;
- the files: all of them exist; by their headers, images have the size of their records and of their
  label maps; a few samples from the first to the last are mapped, and a few annotations of test
  sets are read.

What cannot be right is a `UserError`. What is unusual is a remark, which is logged.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mask_former.data import datasets
from mask_former.data.agreement import check_agreement, check_classes
from mask_former.data.json_files import no_garbage_collection
from mask_former.data.mapper import MaskFormerDatasetMapper
from mask_former.data.missing_files import elsewhere
from mask_former.data.occurrence import annotation_remarks, class_remarks, segment_remarks
from mask_former.data.reading import (
    check_same_size,
    check_size_of_file,
    read_header,
    read_size,
)
from mask_former.data.records import (
    Record,
    check_a_few,
    check_in_memory,
    image_size,
    load_records,
)
from mask_former.data.validation_loss import loss_datasets, loss_mapper
from mask_former.errors import MissingFileError, UserError, listed, prefixed

logger = logging.getLogger(__name__)

_ANNOTATION_FILES = ("sem_seg_file_name", "pan_seg_file_name")
_CHUNK = 32  # records whose headers a thread reads at a time


@no_garbage_collection()
def check_data(cfg: CfgNode, *, eval_only: bool = False) -> list[str]:
    """Check the data sets of cfg: metadata, annotations, and a few samples.

    Args:
        cfg: DATASETS.TEST and, unless `eval_only`, DATASETS.TRAIN and the data sets of the
            validation loss are checked.
        eval_only: whether these are left out.

    Returns:
        Remarks on what is unusual, and may be a mistake.

    Raises:
        FileNotFoundError: a folder or a file is missing.
        UserError: there is no data set, or something in one contradicts cfg, another one or itself.
    """
    key = "TEST" if eval_only else "TRAIN"
    if not cfg.DATASETS[key]:
        raise UserError(
            f"DATASETS.{key} is empty: name a data set, or a recipe with --config-file."
        )
    train = () if eval_only else tuple(dict.fromkeys(cfg.DATASETS.TRAIN))
    test = tuple(dict.fromkeys(cfg.DATASETS.TEST))
    losses = () if eval_only else loss_datasets(cfg)
    names = tuple(dict.fromkeys((*train, *test, *losses)))
    for name in names:
        datasets.check_dataset(name)
    check_agreement(cfg, names)
    for name in names:
        check_classes(cfg, name)
    remarks: list[str] = []
    for name in train:
        records = load_records(name, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
        check_records(name, records, MaskFormerDatasetMapper(cfg, is_train=True))
        check_headers(name, records, exif=cfg.INPUT.EXIF_ORIENTATION)
        remarks += annotation_remarks(cfg, name)
        remarks += segment_remarks(cfg, name, records)
        remarks += class_remarks(cfg, name, records)
    for name in test:
        records = load_records(name)
        check_records(name, records, MaskFormerDatasetMapper(cfg, is_train=False))
        check_headers(name, records, exif=cfg.INPUT.EXIF_ORIENTATION)
        if name not in train:
            remarks += annotation_remarks(cfg, name)
            remarks += class_remarks(cfg, name, records)
    for name in losses:
        check_records(name, load_records(name), loss_mapper(cfg))
    return remarks


def check_records(
    dataset_name: str,
    records: Sequence[Record],
    mapper: Callable[[Record], dict[str, Any]],
) -> Sequence[Record]:
    """Check all records in memory, map a few of them, and return `records`.

    Args:
        dataset_name: for error messages.
        records: of that data set.
        mapper: a `MaskFormerDatasetMapper`.

    Raises:
        FileNotFoundError, UserError: a record is wrong; the message names data set and file.
    """
    with prefixed(f"Data set {dataset_name!r}: "):
        check_in_memory(records, mapper.num_classes)
        check_files_exist(records, hint=_where(dataset_name))
        check_a_few(records, mapper)
    return records


def _where(dataset_name: str) -> str:
    """Where the folders of a data set are named."""
    keys = vars(MetadataCatalog.get(dataset_name)).get("keys")
    return f" ({', '.join(keys.values())}, and names in a JSON)" if keys else ""


def check_files_exist(records: Sequence[Record], hint: str = "") -> None:
    """Raise FileNotFoundError if a file of the records is missing. Folders are listed once, which
    is faster than asking for every file, above all over a network.

    Args:
        hint: where the folders are named, for the message.
    """
    names: dict[str, set[str]] = {}
    missing = []
    for path in _files(records):
        folder, name = os.path.split(path)
        if folder not in names:
            exists = os.path.isdir(folder or ".")
            names[folder] = set(os.listdir(folder or ".")) if exists else set()
        if name not in names[folder]:
            missing.append(path)
    if missing:
        raise MissingFileError(
            f"{len(missing)} files are missing: {listed(missing, 3)}. Is the data set complete, "
            f"and the folder that it is registered with right{hint}?{elsewhere(missing[0])}"
        )


def _files(records: Sequence[Record]) -> Iterator[str]:
    """The local files of the records."""
    for record in records:
        for key in ("file_name", *_ANNOTATION_FILES):
            if record.get(key) and "://" not in str(record[key]):
                yield str(record[key])


def check_headers(dataset_name: str, records: Sequence[Record], *, exif: bool) -> None:
    """Raise UserError unless all image files have the sizes of their records and label maps.

    Args:
        dataset_name: for error messages.
        records: of that data set.
        exif: whether the orientation of EXIF is applied to images.
    """

    def check(record: Record) -> None:
        file_name, size = record["file_name"], image_size(record)
        if "://" in str(file_name):
            return
        header = read_header(file_name)
        if size is not None:
            check_size_of_file(file_name, header, size, exif)
        for key in _ANNOTATION_FILES:
            label_file = record.get(key)
            if label_file and "://" not in str(label_file):
                check_same_size(label_file, read_size(label_file), file_name, header.shown(exif))

    def check_chunk(start: int) -> None:
        for record in records[start : start + _CHUNK]:
            check(record)

    # They wait for a disk together; what a header takes beside that is as little as a task's cost.
    with prefixed(f"Data set {dataset_name!r}: "), ThreadPoolExecutor(8) as threads:
        list(threads.map(check_chunk, range(0, len(records), _CHUNK)))
