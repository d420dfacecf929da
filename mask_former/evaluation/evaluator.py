"""What the evaluators of this package have in common."""

import logging
from collections.abc import Hashable, Mapping
from functools import reduce
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from mask_former.data.records import Record, check_a_few, load_records, unique_records
from mask_former.errors import UserError, prefixed

logger = logging.getLogger(__name__)


class Evaluator(DatasetEvaluator):
    """An evaluator that compares predictions with the annotations of a data set.

    Args:
        dataset_name: of the data set.
        *needed: metadata that it has to have.
        metric: that needs them, for the error message.

    Attributes:
        accepts_label_maps: see `Evaluators`; also true of those that read no semantic output.

    Raises:
        UserError: the metadata lack one of them.
    """

    accepts_label_maps = True
    _ground_truth: Mapping[Hashable, Any]

    def __init__(self, dataset_name: str, *needed: str, metric: str) -> None:
        self._dataset_name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        for key in needed:
            if not self._metadata.get(key):
                raise UserError(
                    f"the metadata of {dataset_name} lack `{key}`, which {metric} needs"
                )

    def check_ground_truth(self) -> None:
        """Read the list of annotations, and a few of them, from the first to the last.

        Raises:
            FileNotFoundError, UserError: what `process` would raise later.
        """
        with prefixed(f"Data set {self._dataset_name!r}: "):
            check_a_few(self._ground_truth.values(), self._read)

    def _read(self, record: Record) -> None:
        """Read the annotation of a record of `_ground_truth`, to see whether it is sound."""
        raise NotImplementedError

    def _records_by(self, key: str, annotation: str) -> dict[Any, Record]:
        """The records that name an `annotation`, by `record[key]`.

        Raises:
            UserError: an image has two annotations.
        """
        records = (r for r in load_records(self._dataset_name) if annotation in r)
        return unique_records(self._dataset_name, records, key, annotation)

    def _warn_of_missing(self, num_images: int, total: int, consequence: str) -> None:
        """Warn if not all of the annotated images have been predicted."""
        if num_images < total:
            logger.warning(
                "%s: predictions for %d of %d images; %s.",
                self._dataset_name,
                num_images,
                total,
                consequence,
            )


def gathered(images: dict[Hashable, Any]) -> dict[Hashable, Any]:
    """What is kept of images in all processes, for the main one; empty in the others."""
    return reduce(dict.__or__, comm.gather(images), {})
