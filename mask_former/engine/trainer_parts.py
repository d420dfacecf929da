"""What a training is made of, for subclasses to override, and the evaluation of its model."""

import logging
import os
from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from mask_former.data.loader import build_test_loader, build_train_loader
from mask_former.engine.evaluate import Results, evaluate_model, load_trained_weights
from mask_former.engine.model import build_model
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
from mask_former.engine.tta import with_test_time_augmentation
from mask_former.evaluation.build import build_evaluator
from mask_former.precision import prepare

logger = logging.getLogger(__name__)


class TrainerParts:
    """The class methods of Detectron2's DefaultTrainer."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, *, start_iter: int = 0) -> Iterable[list[dict]]:
        return build_train_loader(cfg, start_iter=start_iter)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, *, suffix: str = "", output_folder: str | None = None
    ) -> Results:
        """Evaluate `model` on all DATASETS.TEST; see `evaluate_model`."""
        return evaluate_model(
            cfg,
            model,
            cls.build_test_loader,
            cls.build_evaluator,
            suffix=suffix,
            output_folder=output_folder,
        )

    @classmethod
    def test_with_TTA(
        cls, cfg: CfgNode, model: nn.Module, *, output_folder: str | None = None
    ) -> Results:
        """`test` with test-time augmentation: tasks are called `sem_seg_TTA`, ..."""
        logger.info(f"With test-time augmentation: {dict(cfg.TEST.AUG)}")
        model = with_test_time_augmentation(cfg, model)
        return cls.test(cfg, model, suffix="_TTA", output_folder=output_folder)

    @classmethod
    def evaluate(cls, cfg: CfgNode, *, resume: bool = False) -> Results:
        """Load MODEL.WEIGHTS, or with `resume` the last checkpoint of OUTPUT_DIR, and `test` it;
        with TEST.AUG.ENABLED `test_with_TTA`, too.

        Predictions are saved under OUTPUT_DIR, in `inference` and `inference_TTA`.

        Raises:
            UserError: there are no weights to evaluate.
        """
        model = cls.build_model(cfg)
        prepare(cfg, model, training=False)
        load_trained_weights(cfg, model, resume=resume)
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        results = cls.test(cfg, model, output_folder=folder)
        if cfg.TEST.AUG.ENABLED:
            with_tta = cls.test_with_TTA(cfg, model, output_folder=f"{folder}_TTA")
            for name, metrics in with_tta.items():
                results.setdefault(name, {}).update(metrics)  # of a task, or of a data set
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
