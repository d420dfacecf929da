"""How many objects of each class an image has: counted in predictions, and compared with the truth.

A model of instances counts without being trained to: MaskFormer with an EfficientNet (MFENet) is
used so. The errors are those of Chattopadhyay et al., "Counting Everyday Objects in Everyday
Scenes", CVPR 2017.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.utils import comm

from mask_former.checkpoint.atomic_write import explained_write_errors
from mask_former.data.classes import class_names
from mask_former.data.records import Record, load_records, segments_of, unique_records
from mask_former.errors import UserError
from mask_former.evaluation.evaluator import Evaluator, gathered
from mask_former.evaluation.tables import mean_or_nan, score_table

logger = logging.getLogger(__name__)


class ObjectCounter:
    """Counts the objects of each class, the things, that are predicted in an image.

    Args:
        metadata: Detectron2's `Metadata` of the data set whose classes the model knows.
        min_score: instances of a smaller score do not count. Segments do, which have passed
            MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD.

    Attributes:
        classes: names by contiguous id.

    Raises:
        UserError: the metadata do not say which classes are things.
    """

    def __init__(self, metadata: Metadata, min_score: float = 0.0) -> None:
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        names = class_names(metadata)
        if not things or not names:
            raise UserError(
                f"Objects are counted by the classes of {metadata.get('name')}, but its metadata "
                "lack their names or `thing_dataset_id_to_contiguous_id`."
            )
        self.classes: dict[int, str] = {index: names[index] for index in sorted(things.values())}
        self._min_score = min_score

    def __call__(self, prediction: Mapping[str, Any]) -> dict[int, int]:
        """The number of objects by contiguous id, in `instances` or else in `panoptic_seg`."""
        if "instances" in prediction:
            instances = prediction["instances"]
            found = instances.pred_classes[instances.scores >= self._min_score].tolist()
        else:
            found = [info["category_id"] for info in prediction["panoptic_seg"][1]]
        number = Counter(found)
        return {category: number[category] for category in self.classes}


class CountEvaluator(Evaluator):
    """Errors of the number of objects of each class in an image.

    MAE is the mean over images of the absolute error, RMSE the root of the mean of its square, of
    each class; both are averaged over the classes. Where a class has a crowd, nobody knows how many
    objects there are: that image does not count for that class.

    It reads `output["instances"]` or else `output["panoptic_seg"]`; see `ObjectCounter`.

    Args:
        dataset_name: its metadata name the classes, and which are things; its records have
            `annotations` or `segments_info`.
        min_score: of an instance that counts, in [0, 1].

    Raises:
        UserError: the metadata lack these.
    """

    def __init__(self, dataset_name: str, min_score: float) -> None:
        super().__init__(dataset_name, metric="MAE")
        self._count = ObjectCounter(self._metadata, min_score)
        self._classes = self._count.classes
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # The predicted numbers of each image file.
        self._images: dict[str, list[int]] = {}

    def check_ground_truth(self) -> None:
        """Count the annotated objects.

        Raises:
            FileNotFoundError, UserError: what `process` would raise later.
        """
        _ = self._ground_truth  # counts them

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the objects that are predicted in some images.

        Raises:
            UserError: the data set has no annotation of an image.
        """
        for record, output in zip(inputs, outputs, strict=True):
            file_name = record["file_name"]
            if file_name not in self._ground_truth:
                raise UserError(
                    f"{file_name}: no record of {self._dataset_name} counts its objects"
                )
            self._images[file_name] = list(self._count(output).values())

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather from the processes; only the main process returns the metrics.

        Returns:
            {"count": MAE, RMSE, and MAE-NAME and RMSE-NAME of every class}, in objects; smaller is
            better. NaN where every image has a crowd.
        """
        images = gathered(self._images)
        if not comm.is_main_process():
            return None
        self._warn_of_missing(
            len(images), len(self._ground_truth), "objects are counted in these only"
        )
        predicted = np.array(list(images.values()), dtype=float).reshape(-1, len(self._classes))
        true = np.array([self._ground_truth[name] for name in images]).reshape(predicted.shape)
        metrics = count_errors(predicted, true, list(self._classes.values()))
        self._log(metrics, predicted, true)
        return {"count": metrics}

    def _log(self, metrics: Mapping[str, float], predicted: np.ndarray, true: np.ndarray) -> None:
        known = ~np.isnan(true)
        sums = [numbers.sum(axis=0, where=known) for numbers in (true, predicted)]
        rows = [
            [name, *of_class, metrics[f"MAE-{name}"], metrics[f"RMSE-{name}"]]
            for name, *of_class in zip(self._classes.values(), *sums, strict=True)
        ]
        rows.append(["all", *map(sum, sums), metrics["MAE"], metrics["RMSE"]])
        headers = ["class", "annotated", "predicted", "MAE", "RMSE"]
        logger.info("Numbers of objects:\n%s", score_table(rows, headers))

    @cached_property
    def _ground_truth(self) -> dict[str, np.ndarray]:
        """The number of objects of each class by image file, (N,); NaN where there is a crowd.

        Raises:
            UserError: an image occurs twice; no record has objects.
        """
        records = load_records(self._dataset_name)
        kinds = [key for key in ("annotations", "segments_info") if key in records[0]]
        if not kinds:
            raise UserError(
                f"The records of {self._dataset_name} have no objects to count, neither "
                "'annotations' nor 'segments_info'."
            )
        records = unique_records(self._dataset_name, records, "file_name", kinds[0])
        return {name: self._annotated(record) for name, record in records.items()}

    def _annotated(self, record: Record) -> np.ndarray:
        segments = segments_of(record)
        classes = np.array([segment["category_id"] for segment in segments])
        crowd = np.array([bool(segment.get("iscrowd")) for segment in segments], dtype=bool)
        is_class = classes[:, None] == np.array(list(self._classes))
        unknown = (is_class & crowd[:, None]).any(axis=0)
        return np.where(unknown, np.nan, is_class.sum(axis=0))


def count_errors(
    predicted: np.ndarray, true: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """MAE and RMSE of numbers of objects, of each class and averaged over the classes.

    Args:
        predicted: (images, classes).
        true: (images, classes); NaN where it is unknown.
        class_names: of the classes.
    """
    error = predicted - true
    known = (~np.isnan(error)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mae = np.nansum(abs(error), axis=0) / known
        rmse = np.sqrt(np.nansum(error**2, axis=0) / known)
    metrics = {"MAE": mean_or_nan(mae[known > 0]), "RMSE": mean_or_nan(rmse[known > 0])}
    for name, values in (("MAE", mae), ("RMSE", rmse)):
        metrics |= dict(zip((f"{name}-{c}" for c in class_names), values.tolist(), strict=True))
    return metrics


class CountWriter:
    """Saves the numbers of objects of images as a table: an image a row, a class a column.

    A context manager: the file is written on exit, also after an error.

    Args:
        path: of the CSV file; its folder is made if missing.
        counter: counts the objects of a prediction.
    """

    def __init__(self, path: Path, counter: ObjectCounter) -> None:
        self._path = path
        self._counter = counter
        self._rows: list[list[Any]] = []

    def add(self, file_name: str, prediction: Mapping[str, Any]) -> None:
        """Add an image with the model's output for it."""
        counts = self._counter(prediction).values()
        self._rows.append([file_name, *counts, sum(counts)])

    def __enter__(self) -> "CountWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._rows:
            return
        text = io.StringIO(newline="")
        header = ["file_name", *self._counter.classes.values(), "total"]
        csv.writer(text).writerows([header, *self._rows])
        with explained_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
