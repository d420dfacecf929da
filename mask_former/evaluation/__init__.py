"""Figures of merit: panoptic quality, mean IoU and average precision, by data set."""

from .build import EVALUATORS, Task, build_evaluator
from .confusion import ConfusionMatrix
from .instance import InstanceEvaluator
from .panoptic import PanopticEvaluator
from .panoptic_quality import PanopticQuality, PanopticScores, panoptic_statistics
from .semantic import SemanticEvaluator

__all__ = [
    "EVALUATORS",
    "ConfusionMatrix",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PanopticQuality",
    "PanopticScores",
    "SemanticEvaluator",
    "Task",
    "build_evaluator",
    "panoptic_statistics",
]
