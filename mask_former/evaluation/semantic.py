"""Mean IoU and PQ^St over a data set."""

import logging
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm

from mask_former.data.classes import ignored_label
from mask_former.data.coco_format import image_entry
from mask_former.data.reading import read_size
from mask_former.data.records import Record, image_size, read_encoded_labels, read_label_map
from mask_former.errors import NonFiniteError, UserError, prefixed
from mask_former.evaluation.confusion import ConfusionMatrix
from mask_former.evaluation.evaluator import Evaluator, gathered
from mask_former.evaluation.results import relative_names, save_semantic, write_result
from mask_former.evaluation.tables import class_table, score_table

logger = logging.getLogger(__name__)


class SemanticEvaluator(Evaluator):
    """mIoU and its relatives, and PQ^St, computed while predictions stream in.

    mIoU counts pixels. PQ^St (paper, section 4.1) counts regions: it is panoptic quality with all
    classes as stuff, the pixels of a class in an image being one segment, so that a small segment
    weighs as much as a large one.

    It reads `output["sem_seg"]`: scores, float (K, H, W), or a label map, integers (H, W); on any
    device.

    Args:
        dataset_name: its metadata name `stuff_classes` (all K classes); its records name
            `sem_seg_file_name`.
        ignore_label: label of pixels that do not count. None: see `ignored_label`.
        output_folder: where the predictions are saved, `semantic.json` and the folder `semantic` of
            PNG files; shared by all processes. None: nothing is saved.

    Raises:
        UserError: the metadata lack `stuff_classes`.
    """

    def __init__(
        self,
        dataset_name: str,
        ignore_label: int | None = None,
        output_folder: str | None = None,
    ) -> None:
        super().__init__(dataset_name, "stuff_classes", metric="mIoU")
        self._output_folder = output_folder
        self._class_names = list(self._metadata.stuff_classes)
        known = ignored_label(self._metadata)
        self._ignore_label = known if ignore_label is None else ignore_label
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._confusion = ConfusionMatrix(len(self._class_names), self._ignore_label)
        # The two entries of each image file in `semantic.json`: in its images, and its annotation.
        self._saved: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the predictions of some images with their ground truth.

        Raises:
            FileNotFoundError: no ground truth file.
            UserError: an image without ground truth, or with a broken file; another number of
                classes; sizes that disagree; labels out of range; two images whose predictions
                would be saved under one name. The message names the file.
        """
        for record, output in zip(inputs, outputs, strict=True):
            annotated = self._ground_truth.get(record["file_name"])
            if annotated is None:
                raise UserError(
                    f"{record['file_name']}: no record of {self._dataset_name} names this image "
                    "and a `sem_seg_file_name`"
                )
            gt = read_encoded_labels(annotated)
            place = f"image {record['file_name']}, ground truth {annotated['sem_seg_file_name']}: "
            with prefixed(place):
                labels = self._labels(output["sem_seg"])
                self._confusion.update(record["file_name"], labels, gt)
            if self._output_folder:
                self._save(annotated, labels)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Reduce over the processes; only the main process returns the metrics.

        Returns:
            {"sem_seg": mIoU, fwIoU, IoU-NAME of every class, mACC, pACC, ACC-NAME of every
            class, PQ_St, SQ_St, RQ_St}, in percent.
        """
        parts = comm.gather(self._confusion)
        saved = gathered(self._saved)
        if not comm.is_main_process():
            return None
        confusion = reduce(ConfusionMatrix.merge, parts)
        self._warn_of_missing(len(confusion), len(self._ground_truth), "mIoU is over these only")
        if self._output_folder:
            entries = (saved[file] for file in self._ground_truth if file in saved)
            write_result(self._output_folder, "semantic", entries, self._metadata)
        metrics = confusion.compute(self._class_names)
        quality = confusion.quality().compute()
        metrics |= {f"{name}_St": quality[name] for name in ("PQ", "SQ", "RQ")}
        means = ("mIoU", "fwIoU", "mACC", "pACC", "PQ_St")
        logger.info(
            "Semantic segmentation:\n%s", score_table([[metrics[name] for name in means]], means)
        )
        iou = {name: metrics[f"IoU-{name}"] for name in self._class_names}
        logger.info("IoU by class:\n%s", class_table(iou, "IoU"))
        return {"sem_seg": metrics}

    def _labels(self, sem_seg: torch.Tensor) -> np.ndarray:
        if sem_seg.dim() == 3:
            if len(sem_seg) != len(self._class_names):
                raise UserError(
                    f"the model predicts {len(sem_seg)} classes, {self._dataset_name} has "
                    f"{len(self._class_names)}; see MODEL.SEM_SEG_HEAD.NUM_CLASSES"
                )
            best = sem_seg.max(dim=0)  # faster than argmax on a CPU
            if not bool(best.values.isfinite().all()):
                raise NonFiniteError("scores are NaN or infinite: are the weights sound?")
            sem_seg = best.indices
        return sem_seg.cpu().numpy()

    def _save(self, record: Record, labels: np.ndarray) -> None:
        number, name, file = self._names[record["file_name"]]
        image_id = record.get("image_id", number)
        save_semantic(Path(self._output_folder, "semantic", file), labels)
        self._saved[record["file_name"]] = (
            image_entry(image_id, name, labels.shape),
            {"image_id": image_id, "file_name": file},
        )

    @cached_property
    def _names(self) -> dict[str, tuple[int, str, str]]:
        """Of each image file its number, from 1, its name relative to the folder of all, and where
        its prediction is saved."""
        files = list(self._ground_truth)
        names = relative_names(files, self._metadata.get("image_root"))
        found: dict[str, tuple[int, str, str]] = {}
        first: dict[str, str] = {}
        for number, (file, name) in enumerate(zip(files, names, strict=True), start=1):
            png = str(Path(name).with_suffix(".png"))
            if first.setdefault(png, file) != file:
                raise UserError(
                    f"The predictions for {first[png]} and {file} would both be saved as {png}: "
                    "their names differ only in the suffix. Rename one."
                )
            found[file] = number, name, png
        return found

    def _read(self, record: Record) -> None:
        size = image_size(record) or read_size(record["sem_seg_file_name"])
        read_label_map(record, size, len(self._class_names), self._ignore_label)

    @cached_property
    def _ground_truth(self) -> dict[str, Record]:
        """The record of each image file, which names its annotation."""
        return self._records_by("file_name", "sem_seg_file_name")
