"""Hooks that evaluate, and those that follow an evaluation: best weights, metrics, curves."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.classes import Category
from mask_former.evaluation.metrics_file import read_metrics

logger = logging.getLogger(__name__)

# What decides which weights are the best, unless cfg.TEST.BEST_CHECKPOINT_METRIC is set.
DEFAULT_METRICS = ("panoptic_seg/PQ", "sem_seg/mIoU", "segm/AP", "validation/total_loss")


def evaluated(storage: EventStorage) -> dict[str, float]:
    """The metrics of an evaluation after the present iteration; empty if there was none.

    It leaves them in the storage, with names like task/metric; those of losses have no slash.
    """
    latest = storage.latest()
    return {
        name: value for name, (value, at) in latest.items() if at == storage.iter and "/" in name
    }


def is_better(name: str, value: float, than: float) -> bool:
    """Whether a value of a metric is better than another: the lower of losses and of errors of
    counts, else the higher."""
    *_, task, metric = ["", *name.split("/")]
    measure, _, _ = metric.partition("-")  # without the name of a class
    return value < than if "loss" in measure or task.startswith("count") else value > than


class EvalHook(hooks.EvalHook):
    """Detectron2's, which makes up for the evaluation of the checkpoint that a training is resumed
    from, where an interruption came between the two.

    Args:
        period: iterations between two evaluations; 0: one at the end.
        evaluate: evaluates in all processes; returns the metrics in the main one.
        folder: of the metrics.json that holds those which were made.
    """

    def __init__(self, period: int, evaluate: Callable[[], Any], folder: str) -> None:
        super().__init__(period, evaluate)
        self._folder = folder

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if last < 0 or not self._period or (last + 1) % self._period:
            return
        if comm.all_gather(bool(recorded_metrics(self._folder, last)))[0]:
            return
        self.trainer.storage.iter = last  # until the first step
        self._do_eval()
        if evaluated(self.trainer.storage):
            logger.info(f"The evaluation after iteration {last} has been made up for.")


def recorded_metrics(folder: str, iteration: int) -> dict[str, float]:
    """The metrics of the evaluation after an iteration by the metrics.json of `folder`; empty if
    there was none. One at the end of a training is filed under the next iteration."""
    path = os.path.join(folder, "metrics.json")
    entries = read_metrics(path) if os.path.isfile(path) else []
    return {
        name: value
        for entry in entries
        if entry["iteration"] in (iteration, iteration + 1)
        for name, value in entry.items()
        if "/" in name
    }


class BestCheckpoint(HookBase):
    """Keep the weights of the best evaluation in `model_best.pth`, together with its metric.

    Differs from Detectron2's BestCheckpointer in what a killed run needs: the value is stored in
    the file that it describes, so that neither can outlive the other, and the file is not what
    `--resume` continues from. Runs in the main process, after the hook that evaluates.

    A metric that is NaN, as where a class has no ground truth, is never the best: the next of
    DEFAULT_METRICS decides as long as the one that is asked for has had no value.

    Args:
        model: the model whose weights are saved.
        folder: where.
        metric: what decides, e.g. "panoptic_seg/PQ", preceded by the name of the data set when
            there are several; of losses and of errors, such as "count/MAE", the least is the best.
            Empty: the first that is reported of DEFAULT_METRICS.
        classes: saved with the weights, see `MaskFormerCheckpointer`.
    """

    NAME = "model_best"

    def __init__(
        self,
        model: nn.Module,
        folder: str,
        metric: str = "",
        classes: Sequence[Category] | None = None,
    ) -> None:
        self._checkpointer = MaskFormerCheckpointer(model, folder, classes=classes)
        self._path = os.path.join(folder, f"{self.NAME}.pth")
        self._metric = metric
        # Of the file.
        self._kept, self._best = "", math.nan

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and os.path.isfile(self._path):
            best = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
            self._kept, self._best = best["metric"], best["value"]
            self._metric = self._metric or self._kept
            logger.info(f"Best so far: {self._kept} {best['value']:.4f} ({self._path})")
        self._keep_best()  # of an evaluation that is made up for

    def after_step(self) -> None:
        self._keep_best()

    def after_train(self) -> None:
        self._keep_best()

    def _keep_best(self) -> None:
        metrics = evaluated(self.trainer.storage)
        self._metric = self._metric or default_metric(metrics)
        if self._metric not in metrics:
            if metrics:
                logger.warning(
                    "No best checkpoint is kept: TEST.BEST_CHECKPOINT_METRIC is "
                    f"{self._metric!r}, but the evaluation reports {', '.join(metrics)}."
                )
            return
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        name = self._metric if self._metric in finite else self._instead(finite)
        # The metric that is asked for outranks those that stand in for it.
        if name and (name != self._kept or is_better(name, finite[name], self._best)):
            self._save(name, finite[name])

    def _instead(self, finite: dict[str, float]) -> str:
        """What decides where the metric is NaN: "" when an earlier checkpoint stays the best."""
        name = "" if self._kept == self._metric else self._kept or default_metric(finite)
        if name:
            then = f"{name} decides which checkpoint is the best"
        elif self._kept:
            then = f"{self._path} stays"
        else:
            then = "no best checkpoint is kept, the last is"
        logger.warning(
            f"{self._metric} is not a number in this evaluation, as where a class has no ground "
            f"truth: {then}."
        )
        return name if name in finite else ""

    def _save(self, name: str, value: float) -> None:
        self._kept, self._best = name, value
        self._checkpointer.save_weights(
            self.NAME, metric=name, value=value, iteration=self.trainer.storage.iter
        )
        logger.info(f"Best so far: {name} {value:.4f} ({self._path})")


def default_metric(metrics: dict[str, float]) -> str:
    """The first of DEFAULT_METRICS in `metrics`, of the first data set that has it, else ""."""
    for metric in DEFAULT_METRICS:
        for name in metrics:
            if name == metric or name.endswith(f"/{metric}"):
                return name
    return ""


class PeriodicWriter(hooks.PeriodicWriter):
    """Detectron2's, which also writes after each evaluation: the metrics of the next one take their
    place in the storage."""

    def before_train(self) -> None:
        self._write_metrics()  # of an evaluation that is made up for, see `EvalHook`

    def after_step(self) -> None:
        if not self._write_metrics():
            super().after_step()

    def _write_metrics(self) -> bool:
        found = bool(evaluated(self.trainer.storage))
        for writer in self._writers if found else ():
            writer.write()
        return found


class Curves(HookBase):
    """Draw the curves of metrics.json after each evaluation and at the end.

    Runs in the main process, after the hook that writes the file.

    Args:
        folder: of metrics.json; gets curves.png.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def after_step(self) -> None:
        if evaluated(self.trainer.storage):
            self._draw()

    def after_train(self) -> None:
        self._draw()

    def _draw(self) -> None:
        from mask_former.visualization.curves import plot_curves  # matplotlib takes long to import

        files = (os.path.join(self._folder, name) for name in ("metrics.json", "curves.png"))
        try:
            plot_curves(*files, title=self._folder)
        except Exception as error:  # no picture is worth a training
            logger.warning(f"The curves are not drawn: {error}")
