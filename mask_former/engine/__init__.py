"""Training and evaluation of a config, on one or several processes."""

from mask_former.engine.config import get_cfg, load_config
from mask_former.engine.errors import reported_errors
from mask_former.engine.evaluation_hooks import BestCheckpoint
from mask_former.engine.hooks import ProgressBar
from mask_former.engine.interruption import Interrupted
from mask_former.engine.launch import is_first_process, launch
from mask_former.engine.model import build_model
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
from mask_former.engine.predict import DefaultPredictor
from mask_former.engine.setup import argument_parser, check_run, setup
from mask_former.engine.trainer import Trainer

__all__ = [
    "BestCheckpoint",
    "DefaultPredictor",
    "Interrupted",
    "ProgressBar",
    "Trainer",
    "argument_parser",
    "build_lr_scheduler",
    "build_model",
    "build_optimizer",
    "check_run",
    "get_cfg",
    "is_first_process",
    "launch",
    "load_config",
    "reported_errors",
    "setup",
]
