"""Evaluation of a model over the test sets of a config."""

import logging
import os
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.compatibility import check_finite_weights
from mask_former.data.agreement import known_classes
from mask_former.engine.interruption import StoppableEvaluator, StoppableLoader
from mask_former.engine.label_maps import label_maps_where_accepted
from mask_former.engine.resume import has_checkpoint
from mask_former.engine.sliding_window import with_sliding_window
from mask_former.engine.step import at_test_precision
from mask_former.errors import UserError

logger = logging.getLogger(__name__)

Results = dict[str, Any]
"""task -> metric -> value; one level deeper, by data set, when there are several data sets."""


def evaluate_model(
    cfg: CfgNode,
    model: nn.Module,
    build_test_loader: Callable[[CfgNode, str], DataLoader],
    build_evaluator: Callable[[CfgNode, str, str | None], DatasetEvaluator],
    *,
    suffix: str = "",
    output_folder: str | None = None,
) -> Results:
    """Evaluate `model` on all DATASETS.TEST, at TEST.PRECISION, in the windows of TEST.WINDOW.

    Args:
        build_test_loader, build_evaluator: take cfg and the name of a data set; the latter also the
            folder for its predictions.
        suffix: is appended to the names of the tasks.
        output_folder: where predictions are saved, those for each data set in a folder of its name;
            None: they are not.

    Returns:
        The metrics; empty in all processes but the main one, and where a signal has stopped it
        (see `interruption.noted_signals`).

    Raises:
        NonFiniteError: a weight is not finite.
        UserError: see `with_sliding_window`.
    """
    check_finite_weights(model.state_dict(), "The model is not evaluated")
    model = with_sliding_window(cfg, model)
    results: Results = {}
    run = at_test_precision(cfg, model)
    for name in cfg.DATASETS.TEST:
        folder = output_folder and os.path.join(output_folder, name)
        loader = build_test_loader(cfg, name)
        evaluator = build_evaluator(cfg, name, folder)
        stoppable = StoppableEvaluator(evaluator)
        with label_maps_where_accepted(model, evaluator):
            metrics = inference_on_dataset(run, StoppableLoader(loader), stoppable)
        if stoppable.stopped:
            logger.info(f"The evaluation of {name} was stopped.")
            return {}
        if comm.is_main_process():
            metrics = {task + suffix: values for task, values in metrics.items()}
            logger.info(f"Evaluation of {name}:")
            print_csv_format(metrics)
            results[name] = metrics
    return next(iter(results.values())) if len(results) == 1 else results


def load_trained_weights(cfg: CfgNode, model: nn.Module, *, resume: bool) -> None:
    """Load MODEL.WEIGHTS, or with `resume` the last checkpoint of OUTPUT_DIR, if there is one.

    Raises:
        UserError: there are neither, or they are not of this model, or were trained on other
            classes than those of DATASETS.TEST.
    """
    classes = known_classes(cfg, cfg.DATASETS.TEST)
    checkpointer = MaskFormerCheckpointer(
        model, cfg.OUTPUT_DIR, accept_backbone=False, classes=classes
    )
    resume = resume and has_checkpoint(checkpointer)
    if not (cfg.MODEL.WEIGHTS or resume):
        raise UserError(
            "There are no weights to evaluate: set MODEL.WEIGHTS, or add --resume for the last "
            "checkpoint of an OUTPUT_DIR that has one."
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
