"""Training and evaluation of a config, on one or several processes."""

from .config import get_cfg, load_config
from .errors import reported_errors
from .hooks import BestCheckpoint, ProgressBar
from .launch import is_first_process, launch
from .setup import argument_parser, check_run, setup
from .trainer import Trainer

__all__ = [
    "BestCheckpoint",
    "ProgressBar",
    "Trainer",
    "argument_parser",
    "check_run",
    "get_cfg",
    "is_first_process",
    "launch",
    "load_config",
    "reported_errors",
    "setup",
]
