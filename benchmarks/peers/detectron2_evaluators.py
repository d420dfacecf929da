"""Detectron2's evaluators, made to run with what is installed."""

import sys
import types
from typing import Any

import numpy as np
from detectron2.evaluation import COCOPanopticEvaluator, SemSegEvaluator
from PIL import Image
from torch import Tensor

from benchmarks.peers import panoptic_reference


def panoptic_evaluator(dataset_name: str, output_folder: str) -> COCOPanopticEvaluator:
    """Detectron2's evaluator of PQ, which finds the transcription in the reference's place."""
    for name in ("panopticapi", "panopticapi.utils", "panopticapi.evaluation"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["panopticapi.utils"].id2rgb = panoptic_reference.id2rgb
    sys.modules["panopticapi.evaluation"].pq_compute = panoptic_reference.pq_compute
    return COCOPanopticEvaluator(dataset_name, output_folder)


def semantic_evaluator(dataset_name: str, *, only_counting: bool = False) -> SemSegEvaluator:
    """Detectron2's evaluator of mean IoU.

    Args:
        only_counting: leave out what ours does not do either: boundary IoU and JSON results.
    """
    kind = _OnlyCounting if only_counting else SemSegEvaluator
    return kind(dataset_name, sem_seg_loading_fn=_read)


def _read(path: str, dtype: type) -> np.ndarray:
    # Detectron2's own does not work with NumPy 2.
    return np.asarray(Image.open(path), dtype=dtype)


class _OnlyCounting(SemSegEvaluator):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._compute_boundary_iou = False

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[dict]:
        return []


class LabelsAsScores:
    """Labels in the place of scores, for an evaluator that asks for the largest.

    Args:
        labels: int64 (H, W).
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def argmax(self, dim: int) -> Tensor:
        return self.labels
