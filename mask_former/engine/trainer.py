"""The training loop."""

import logging
import os
import time
import weakref
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.compatibility import check_finite_weights
from mask_former.data.agreement import known_classes
from mask_former.data.random_state import preserved_random_state
from mask_former.engine.early_stopping import EarlyStopping
from mask_former.engine.ema import build_ema
from mask_former.engine.evaluate import Results
from mask_former.engine.evaluation_hooks import (
    BestCheckpoint,
    Curves,
    EvalHook,
    PeriodicWriter,
)
from mask_former.engine.hooks import ModelSchedule, RandomState, is_due
from mask_former.engine.interruption import asked_anywhere, shield_workers
from mask_former.engine.learning_rate import scaled_to_processes
from mask_former.engine.parameters import warn_of_random_weights
from mask_former.engine.resume import (
    check_resumed,
    describe_kept,
    fit_to_config,
    has_checkpoint,
    sample_settings,
    warn_of_another_rate,
)
from mask_former.engine.step import TrainStep, distribute, share_buffers
from mask_former.engine.summary import summarize
from mask_former.engine.train_loop import TrainLoop
from mask_former.engine.trainer_parts import TrainerParts
from mask_former.engine.validation_loss import with_validation_loss
from mask_former.errors import NonFiniteError, UserError
from mask_former.evaluation.metrics_file import MetricsWriter, drop_metrics_from
from mask_former.precision import prepare

logger = logging.getLogger(__name__)


class Trainer(TrainerParts, TrainLoop):
    """Trains the model of a config; evaluates, logs and saves it on the way.

    Its methods are those of Detectron2's DefaultTrainer, to override in the same way. Runs in
    every process of a distributed training.

    `model` is trained. `final_model` is evaluated and saved: the same model or, with
    SOLVER.EMA_DECAY, the EMA of its weights.

    Example::

        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.cfg = cfg = scaled_to_processes(cfg, comm.get_world_size())
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.last_results: Results = {}
        self._random_state = RandomState(cfg.SOLVER.CHECKPOINT_PERIOD)

        self._trained = model = self.build_model(cfg)
        precision = prepare(cfg, model, training=True)
        self.optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.model = distribute(model)
        # After all processes have got the weights of the main one.
        self.ema = build_ema(cfg, model)
        self.final_model = self.ema.module if self.ema is not None else model
        self.step = TrainStep(
            self.model,
            self.optimizer,
            device_type=next(model.parameters()).device.type,
            amp_dtype=precision.dtype,
            parts=cfg.SOLVER.ACCUMULATION_STEPS,
        )
        self.checkpointer = MaskFormerCheckpointer(
            self.final_model,
            cfg.OUTPUT_DIR,
            classes=known_classes(cfg, cfg.DATASETS.TRAIN),
            trainer=weakref.proxy(self),
        )
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of OUTPUT_DIR, if `resume` and there is one; else start
        from iteration 0 with MODEL.WEIGHTS.

        Raises:
            UserError: there are no such weights, or they are for another model, other classes or
                another optimizer.
        """
        weights = self.cfg.MODEL.WEIGHTS
        if resume and has_checkpoint(self.checkpointer):
            self.checkpointer.resume_or_load(weights, resume=True)
            check_resumed(self.checkpointer, self.start_iter)
        else:
            self.checkpointer.load(
                weights,
                checkpointables=[],
                without_class_head=self.cfg.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD,
            )
            warn_of_random_weights(self.cfg, self._trained)
            self._train_from(None)

    def train(self) -> Results:
        """Train up to SOLVER.MAX_ITER, or to an early end (SOLVER.EARLY_STOPPING_PATIENCE).

        Returns:
            The metrics of the last evaluation; empty in all processes but the main one.

        Raises:
            NonFiniteError: a prediction or a loss was not finite; names the iteration and the
                images.
        """
        if self.start_iter >= self.max_iter:
            logger.info(f"Nothing to train: {self.start_iter} of {self.max_iter} iterations done.")
            return self.test(self.cfg, self.final_model)
        # Not before the checkpoint is read: the samples continue where it ends.
        loader = self.build_train_loader(self.cfg, start_iter=self.start_iter)
        if comm.is_main_process():
            logger.info(summarize(self.cfg, self.model, loader, start_iter=self.start_iter))
            drop_metrics_from(self.start_iter, self.cfg.OUTPUT_DIR)
        self._batches = iter(shield_workers(loader))
        self.model.train()
        super().train(self.start_iter, self.max_iter)
        if comm.is_main_process():
            verify_results(self.cfg, self.last_results)
        return self.last_results

    def run_step(self) -> None:
        start = time.perf_counter()
        try:
            batch = next(self._batches)
        except UserError as error:
            raise type(error)(f"{error} {self._keep_last()}") from error
        data_time = time.perf_counter() - start
        try:
            losses = self.step.forward_backward(batch)
        except FloatingPointError as error:
            iteration = f"Iteration {self.iter}"
            check_finite_weights(self._trained.state_dict(), iteration)
            raise NonFiniteError(f"{iteration}: {error}. {NonFiniteError.REMEDY}") from error
        self.after_backward()
        self.record(losses, data_time)
        self.step.update()

    def after_step(self) -> None:
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        super().after_step()

    def after_train(self) -> None:
        if self.iter < self.max_iter or self.max_iter < self.cfg.SOLVER.MAX_ITER:
            # The training failed or was stopped, or it ended early and has been evaluated. In the
            # last iteration Detectron2's hook would evaluate all the same, and wait for the others.
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, hooks.EvalHook)]
        super().after_train()

    def keep(self, name: str = "") -> None:
        """Save a checkpoint of the present iteration, unless there is one or it gets a `name`."""
        if name or not is_due(self, self.cfg.SOLVER.CHECKPOINT_PERIOD):
            self._random_state.gather()
            self.checkpointer.save(name or f"model_{self.iter:07d}", iteration=self.iter)
        comm.synchronize()  # Processes that end may end the others.

    def _keep_last(self) -> str:
        """Save a checkpoint of the iteration before this one, and say what is kept."""
        if self.iter == self.start_iter or comm.get_world_size() > 1:
            return ""  # other processes know nothing of the error, and could not join in
        self.iter -= 1
        try:
            self.keep()
            return f"When that is mended: {self.kept()}"
        except UserError as error:
            return str(error)
        finally:
            self.iter += 1

    def kept(self) -> str:
        done = min(self.iter + 1, self.max_iter)
        return describe_kept(self.checkpointer, done, self.max_iter)

    def build_hooks(self) -> list[HookBase]:
        """The hooks, in the order in which they run."""
        cfg = self.cfg
        result: list[HookBase] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            ModelSchedule(self._trained, self.final_model),
            self._random_state,
        ]
        if comm.is_main_process():
            result.append(
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            )
        # After the checkpoint, which is there then if the evaluation fails.
        result.append(EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate, cfg.OUTPUT_DIR))
        metric = cfg.TEST.BEST_CHECKPOINT_METRIC
        if patience := cfg.SOLVER.EARLY_STOPPING_PATIENCE:
            period, folder = cfg.TEST.EVAL_PERIOD, cfg.OUTPUT_DIR
            result.append(EarlyStopping(patience, period, metric, folder, self._evaluate))
        if comm.is_main_process():
            classes = self.checkpointer.classes
            result.append(BestCheckpoint(self.final_model, cfg.OUTPUT_DIR, metric, classes))
            result.append(PeriodicWriter(self.build_writers(), period=20))
            result.append(Curves(cfg.OUTPUT_DIR))
        return result

    def build_writers(self) -> list[EventWriter]:
        """Log lines, metrics.json and TensorBoard files, in OUTPUT_DIR."""
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        return [
            CommonMetricPrinter(self.max_iter),
            MetricsWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder),
        ]

    def _evaluate(self) -> Results:
        # Evaluating more or less often must not change the training.
        with preserved_random_state():
            share_buffers(self.final_model)
            results = self.test(self.cfg, self.final_model)
            self.last_results = with_validation_loss(results, self.cfg, self.final_model)
        self.stopping = asked_anywhere()
        return self.last_results

    def state_dict(self) -> dict[str, Any]:
        state = {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step.state_dict(),
            "samples": sample_settings(self.cfg),
        }
        if self.ema is not None:  # which then is the checkpoint's model
            state["trained"] = self._trained.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        fit_to_config(state, self.cfg, self.optimizer)
        super().load_state_dict(state)
        # The checkpoint names the iteration that it was made after.
        self.start_iter = self.iter + 1
        if self.start_iter < self.max_iter:  # beyond its end a schedule has no rate
            warn_of_another_rate(self.scheduler)
        self._train_from(state.get("trained"))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.load_state_dict(state["step"])

    def _train_from(self, weights: dict[str, Any] | None) -> None:
        """Train on from `weights`, or from those of `final_model`, which have been loaded."""
        if self.ema is not None:
            self.ema.n_averaged.fill_(self.start_iter)
            weights = weights or self.final_model.state_dict()
        if weights:
            self._trained.load_state_dict(weights)
