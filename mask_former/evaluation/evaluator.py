"""What the evaluators of this package have in common."""

import logging
from collections.abc import Hashable, Mapping
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from mask_former.data.records import Record, check_a_few
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
