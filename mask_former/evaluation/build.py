"""The evaluators of a data set, by the `evaluator_type` of its metadata."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from mask_former.errors import UserError
from mask_former.evaluation.cityscapes import CityscapesInstanceEvaluator
from mask_former.evaluation.counts import CountEvaluator
from mask_former.evaluation.evaluators import BackgroundEvaluators, Evaluators
from mask_former.evaluation.instance import InstanceEvaluator
from mask_former.evaluation.panoptic import PanopticEvaluator
from mask_former.evaluation.semantic import SemanticEvaluator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """An output of the model and how it is evaluated.

    Attributes:
        metric: its main metric.
        switch: the key of cfg.MODEL.MASK_FORMER.TEST that switches the output on.
        annotation: the key of the metadata that names the ground truth.
        evaluator: called with the config, the name of the data set and the output folder.
        reports: the keys of its results; empty: any.
    """

    metric: str
    switch: str
    annotation: str
    evaluator: Callable[[CfgNode, str, str | None], DatasetEvaluator]
    reports: tuple[str, ...] = ()


SEMANTIC = Task(
    "mIoU",
    "SEMANTIC_ON",
    "sem_seg_root",
    # What training ignores is ignored.
    lambda cfg, name, folder: SemanticEvaluator(name, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, folder),
    ("sem_seg",),
)
PANOPTIC = Task(
    "PQ",
    "PANOPTIC_ON",
    "panoptic_json",
    lambda _, name, folder: PanopticEvaluator(name, folder),
    ("panoptic_seg",),
)
INSTANCE = Task(
    "AP",
    "INSTANCE_ON",
    "json_file",
    lambda _, name, folder: InstanceEvaluator(name, folder),
    ("segm", "bbox"),
)
# In Cityscapes one folder has the annotations of all tasks.
CITYSCAPES_SEMANTIC = replace(SEMANTIC, annotation="gt_dir")
CITYSCAPES_INSTANCE = replace(
    INSTANCE,
    annotation="gt_dir",
    evaluator=lambda _, name, __: CityscapesInstanceEvaluator(name),
    reports=("segm",),
)

EVALUATORS: dict[str, tuple[Task, ...]] = {
    "sem_seg": (SEMANTIC,),
    "coco": (INSTANCE,),
    "coco_panoptic_seg": (PANOPTIC, SEMANTIC, INSTANCE),
    "ade20k_panoptic_seg": (PANOPTIC, SEMANTIC, INSTANCE),
    "cityscapes_sem_seg": (CITYSCAPES_SEMANTIC,),
    "cityscapes_instance": (CITYSCAPES_INSTANCE,),
    "cityscapes_panoptic_seg": (PANOPTIC, CITYSCAPES_SEMANTIC, CITYSCAPES_INSTANCE),
}
"""The tasks of each `evaluator_type`, the main one first. Extend it for types of your own."""


def annotated_tasks(dataset_name: str) -> list[Task]:
    """What a data set can be evaluated for: its main task, and others whose annotations its
    metadata name.

    Raises:
        UserError: unknown `evaluator_type`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    evaluator_type = metadata.get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        raise UserError(
            f"{dataset_name} has the evaluator_type {evaluator_type!r}; known are "
            f"{', '.join(sorted(EVALUATORS))}. It is set by "
            f"MetadataCatalog.get({dataset_name!r}).evaluator_type"
        )
    # The evaluator of the main task checks itself that it is annotated.
    main, *others = EVALUATORS[evaluator_type]
    return [main, *(task for task in others if metadata.get(task.annotation))]


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> Evaluators:
    """Build the evaluators of a data set, for those `annotated_tasks` that `cfg` switches on.

    Args:
        cfg: read for MODEL.MASK_FORMER.TEST.{SEMANTIC_ON, PANOPTIC_ON, INSTANCE_ON} and
            MODEL.DEVICE, and TEST.COUNT.
        dataset_name: a registered data set.
        output_folder: where predictions are saved. None: they are not.

    Returns:
        Evaluators with results under `panoptic_seg`, `sem_seg`, `bbox` and `segm`, and `count`.

    Raises:
        UserError: unknown `evaluator_type`; nothing that can be evaluated is switched on.
    """
    tasks = _evaluated_tasks(cfg, dataset_name)
    if not tasks:
        possible = annotated_tasks(dataset_name)
        switches = " or ".join(
            f"MODEL.MASK_FORMER.TEST.{task.switch} True (for {task.metric})" for task in possible
        )
        raise UserError(
            f"nothing of {dataset_name} (evaluator_type "
            f"{MetadataCatalog.get(dataset_name).evaluator_type}) can be evaluated with "
            f"the outputs that are switched on: set {switches}"
        )
    logger.info("%s is evaluated for %s", dataset_name, ", ".join(task.metric for task in tasks))
    evaluators = [task.evaluator(cfg, dataset_name, output_folder) for task in tasks]
    if cfg.TEST.COUNT.ENABLED:
        evaluators.append(_count_evaluator(cfg, dataset_name))
    # Beside a model on the CPU no core is idle.
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    return Evaluators(evaluators) if on_cpu else BackgroundEvaluators(evaluators)


def reported_tasks(cfg: CfgNode, dataset_name: str) -> set[str]:
    """The keys of the results of `build_evaluator`; empty: any."""
    reports = [task.reports for task in _evaluated_tasks(cfg, dataset_name)]
    reports += [("count",)] * cfg.TEST.COUNT.ENABLED
    return set().union(*reports) if all(reports) else set()


def _evaluated_tasks(cfg: CfgNode, dataset_name: str) -> list[Task]:
    possible = annotated_tasks(dataset_name)
    return [task for task in possible if cfg.MODEL.MASK_FORMER.TEST[task.switch]]


def _count_evaluator(cfg: CfgNode, dataset_name: str) -> CountEvaluator:
    test = cfg.MODEL.MASK_FORMER.TEST
    if not (test.INSTANCE_ON or test.PANOPTIC_ON):
        raise UserError(
            "TEST.COUNT.ENABLED is True, but there are no objects to count: set "
            "MODEL.MASK_FORMER.TEST.INSTANCE_ON or PANOPTIC_ON."
        )
    return CountEvaluator(dataset_name, cfg.TEST.COUNT.MIN_SCORE)
