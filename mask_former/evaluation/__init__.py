"""Metrics: panoptic quality, mean IoU and average precision, by data set."""

from mask_former.evaluation.build import EVALUATORS, Task, build_evaluator
from mask_former.evaluation.cityscapes import CityscapesInstanceEvaluator
from mask_former.evaluation.confusion import ConfusionMatrix
from mask_former.evaluation.counts import CountEvaluator
from mask_former.evaluation.evaluators import BackgroundEvaluators, Evaluators
from mask_former.evaluation.instance import InstanceEvaluator
from mask_former.evaluation.panoptic import PanopticEvaluator
from mask_former.evaluation.panoptic_quality import (
    PanopticQuality,
    PanopticScores,
    panoptic_statistics,
)
from mask_former.evaluation.semantic import SemanticEvaluator

__all__ = [
    "EVALUATORS",
    "BackgroundEvaluators",
    "CityscapesInstanceEvaluator",
    "ConfusionMatrix",
    "CountEvaluator",
    "Evaluators",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PanopticQuality",
    "PanopticScores",
    "SemanticEvaluator",
    "Task",
    "build_evaluator",
    "panoptic_statistics",
]
