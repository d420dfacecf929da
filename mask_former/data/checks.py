"""What is checked about the data before training or evaluation starts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from mask_former.data import datasets
from mask_former.data.mapper import InstanceAnnotation, annotation_type
from mask_former.data.metadata import read_metadata
from mask_former.data.reading import Record, check_categories
from mask_former.errors import MissingFileError, UserError

# Number of samples of each training set that are mapped before training.
_NUM_SAMPLES = 8


def check_data(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check that the files of cfg's data sets exist and that their classes fit the model.

    Args:
        cfg: DATASETS.TEST and, unless `eval_only`, DATASETS.TRAIN are checked.
        eval_only: whether the training sets are left out.

    Raises:
        FileNotFoundError: a folder or an annotation file is missing.
        ValueError: there is no data set, or the number of classes differs.
    """
    key = "TEST" if eval_only else "TRAIN"
    if not cfg.DATASETS[key]:
        raise UserError(
            f"DATASETS.{key} is empty: name a data set, or a recipe with --config-file."
        )
    names = cfg.DATASETS.TEST if eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in dict.fromkeys(names):
        datasets.check_dataset(name)
        check_classes(cfg, name)


def check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Raise ValueError unless the data set has MODEL.SEM_SEG_HEAD.NUM_CLASSES classes."""
    is_instance = annotation_type(cfg.INPUT.DATASET_MAPPER_NAME) is InstanceAnnotation
    key = "thing_classes" if is_instance else "stuff_classes"
    classes = read_metadata(dataset_name).get(key)
    if classes is None:
        raise UserError(
            f"The metadata of data set {dataset_name!r} has no {key}, which the mapper "
            f"{cfg.INPUT.DATASET_MAPPER_NAME} (INPUT.DATASET_MAPPER_NAME) needs."
        )
    if len(classes) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise UserError(
            f"Data set {dataset_name!r} has {len(classes)} classes ({key}), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}; set it to "
            f"{len(classes)}."
        )


def check_records(
    dataset_name: str,
    records: Sequence[Record],
    mapper: Callable[[Record], dict[str, Any]],
) -> Sequence[Record]:
    """Check the category ids of all records, map a few of them, and return `records`.

    Args:
        dataset_name: for error messages.
        records: of that data set.
        mapper: a `MaskFormerDatasetMapper` for training.

    Raises:
        FileNotFoundError, ValueError: a record is wrong; the message names data set and file.
    """
    try:
        for record in records:
            segments = record.get("annotations") or record.get("segments_info", [])
            ids = (segment["category_id"] for segment in segments)
            check_categories(record["file_name"], ids, mapper.num_classes)
        count = min(_NUM_SAMPLES, len(records))
        for index in np.linspace(0, len(records) - 1, count, dtype=int):
            mapper(records[index])
    except MissingFileError as error:
        raise MissingFileError(f"Data set {dataset_name!r}: {error}") from error
    except UserError as error:
        raise UserError(f"Data set {dataset_name!r}: {error}") from error
    return records
