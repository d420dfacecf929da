"""The end of a training that does not become better: see SOLVER.EARLY_STOPPING_PATIENCE."""

import logging
import math
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from mask_former.engine.evaluation_hooks import (
    default_metric,
    evaluated,
    is_better,
    recorded_metrics,
)

logger = logging.getLogger(__name__)


class EarlyStopping(HookBase):
    """End the training after an evaluation by which the metric has not become better for long.

    Its state is in the checkpoints. These are written before the evaluation of their iteration; in
    a training that is resumed from one, that evaluation is counted first, so that it ends where it
    would have ended without interruption; one that has ended is evaluated again, for its results.
    An evaluation that does not report the metric, or as NaN, does not count.

    Runs in all processes, after the hook that evaluates, and before those that keep the best
    weights and write metrics, to which an evaluation that is made up for is one of its iteration.

    Args:
        patience: so many evaluations in a row may be no better than the best one before.
        period: iterations between two evaluations.
        metric: name of a metric; of losses the least is the best. Empty: the first that is reported
            of `DEFAULT_METRICS`.
        folder: of metrics.json, which holds the evaluations before the training was resumed.
        evaluate: evaluates in all processes; returns the metrics in the main one.
    """

    def __init__(
        self,
        patience: int,
        period: int,
        metric: str,
        folder: str,
        evaluate: Callable[[], dict[str, Any]],
    ) -> None:
        self._patience = patience
        self._period = period
        self._metric = metric
        self._folder = folder
        self._evaluate = evaluate
        # The iteration of the last evaluation that is counted, and what there is to count.
        self._state = {"iteration": -1, "metric": "", "best": 0.0, "worse": 0}

    @property
    def reached(self) -> bool:
        """Whether the training has to end."""
        return 0 < self._patience <= self._state["worse"]

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if last >= 0 and self._is_due(last) and self._state["iteration"] != last:
            storage = self.trainer.storage
            self._count(evaluated(storage) or recorded_metrics(self._folder, last), last)
        if self.reached:
            if self.trainer.storage.iter != last:  # for its results
                self._evaluate()
            self._end(last)

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if self._is_due(iteration) and iteration + 1 < self.trainer.max_iter:
            self._count(evaluated(self.trainer.storage), iteration)
            if self.reached:
                self._end(iteration)

    def _is_due(self, iteration: int) -> bool:
        return (iteration + 1) % self._period == 0

    def _count(self, metrics: dict[str, float], iteration: int) -> None:
        # The main process alone has metrics.
        self._state = comm.all_gather(self._counted(metrics, iteration))[0]

    def _counted(self, metrics: dict[str, float], iteration: int) -> dict[str, Any]:
        if not metrics:  # stopped by a signal
            return self._state
        state = {**self._state, "iteration": iteration}
        name = self._metric or state["metric"] or default_metric(metrics)
        value = metrics.get(name, math.nan)
        if not math.isfinite(value):
            return state
        if name != state["metric"] or is_better(name, value, state["best"]):
            return {**state, "metric": name, "best": value, "worse": 0}
        return {**state, "worse": state["worse"] + 1}

    def _end(self, iteration: int) -> None:
        state = self._state
        logger.info(
            f"The training ends early, after iteration {iteration}: {state['metric']} has not "
            f"become better than {state['best']:.4f} in {state['worse']} evaluations."
        )
        trainer, now = self.trainer, self.trainer.iter
        trainer.iter = iteration  # of the checkpoint
        trainer.keep("model_final")
        trainer.iter, trainer.max_iter = now, iteration + 1

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = dict(state)
