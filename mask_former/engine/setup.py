"""From a command line to a process that is ready to train: flags, checks, logs, seeds."""

import argparse
import atexit
import logging
import os
from contextlib import suppress
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from mask_former.checkpoint.atomic_write import explained_write_errors, replaced_when_complete
from mask_former.checkpoint.classes import check_trained_on
from mask_former.checkpoint.read import trained_classes
from mask_former.criterion import class_weights
from mask_former.data.agreement import known_classes
from mask_former.data.checks import check_data
from mask_former.data.validation_loss import loss_datasets
from mask_former.data.writing import write_json
from mask_former.engine.config import read_settings
from mask_former.engine.learning_rate import check_reference_world_size, rate_of_another_batch
from mask_former.engine.model import check_names
from mask_former.engine.own_data import register_own
from mask_former.engine.sliding_window import window_of
from mask_former.engine.validation_loss import TASK as VALIDATION
from mask_former.errors import ExistingFileError, UnwritableFileError, UserError, listed
from mask_former.evaluation.build import build_evaluator, reported_tasks
from mask_former.precision import inference_precision, training_precision

# What a run leaves in its folder, and another one would continue or overwrite.
_RUN_FILES = ("last_checkpoint", "metrics.json", "model_best.pth", "model_final.pth")


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags. `--num-gpus` counts processes when MODEL.DEVICE is cpu, and
    `--dist-url` is only needed for several machines."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    return parser


def check_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Find out what would go wrong later, before anything is written.

    What is no error, but may be a mistake, is kept in `args.remarks`; `setup` logs it.

    Raises:
        UserError: device, precision, windows, solver, number of classes or labels do not fit;
            weights of other classes; a test set that cannot be evaluated.
        FileExistsError: OUTPUT_DIR holds another run.
        OSError: OUTPUT_DIR cannot be written.
        FileNotFoundError: a data set is not there.
    """
    check_device(cfg)
    if torch.device(cfg.MODEL.DEVICE).type == "mps" and args.num_gpus * args.num_machines > 1:
        raise UserError("With MODEL.DEVICE mps there is one process: leave out --num-gpus.")
    inference_precision(cfg)
    window_of(cfg)
    check_names(cfg)
    check_expected(cfg)
    if not args.eval_only:
        training_precision(cfg)
        check_numbers(cfg)
    check_writable(cfg.OUTPUT_DIR)
    if not (args.resume or args.eval_only):
        check_output_folder(cfg.OUTPUT_DIR)
    args.remarks = check_data(cfg, eval_only=args.eval_only)
    check_classes_of_weights(cfg, args)
    for name in cfg.DATASETS.TEST:
        build_evaluator(cfg, name).check_ground_truth()
    if not args.eval_only:
        check_best_metric(cfg)


def check_best_metric(cfg: CfgNode) -> None:
    """Raise UserError if TEST.BEST_CHECKPOINT_METRIC is of a task that is not evaluated."""
    metric = cfg.TEST.BEST_CHECKPOINT_METRIC
    tests = {name: reported_tasks(cfg, name) for name in cfg.DATASETS.TEST}
    if not (metric and cfg.TEST.EVAL_PERIOD and all(tests.values())):
        return
    losses = {name: {VALIDATION} for name in loss_datasets(cfg)}
    tasks = [
        f"{name}/{task}" if len(sets) > 1 else task
        for sets in (tests, losses)
        for name, found in sets.items()
        for task in sorted(found)
    ]
    if not any(metric.startswith(f"{task}/") for task in tasks):
        raise UserError(
            f"TEST.BEST_CHECKPOINT_METRIC is {metric!r}, but evaluated are metrics whose names "
            f"begin with {listed(tasks)}. Leave it empty for the main one."
        )


def check_device(cfg: CfgNode) -> None:
    """Raise UserError unless MODEL.DEVICE is a device that this machine has."""
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which PyTorch does not know; it is cuda, mps or"
            " cpu."
        ) from error
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type in available and not available[device.type]():
        raise UserError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch finds no such GPU on this machine. "
            "Add `MODEL.DEVICE cpu` to the command line to run on the CPU."
        )


def check_numbers(cfg: CfgNode) -> None:
    """Raise UserError for a training of nothing, or one that never saves; numbers that contradict
    each other."""
    for key in ("IMS_PER_BATCH", "MAX_ITER", "CHECKPOINT_PERIOD"):
        if cfg.SOLVER[key] < 1:
            raise UserError(f"SOLVER.{key} is {cfg.SOLVER[key]}, but must be at least 1.")
    check_reference_world_size(cfg)
    class_weights(cfg)
    steps = list(cfg.SOLVER.STEPS)
    if "Step" in cfg.SOLVER.LR_SCHEDULER_NAME and steps != sorted(set(steps)):
        raise UserError(f"SOLVER.STEPS is {steps}; each must be larger than the one before.")
    ends = list(cfg.MODEL.EOMT.ANNEALING_END)
    if max(ends, default=0) > cfg.SOLVER.MAX_ITER:
        raise UserError(
            f"MODEL.EOMT.ANNEALING_END is {ends}, but the training ends at SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}: attention would be masked to the last, and not in inference. "
            "Scale ANNEALING_START and ANNEALING_END with MAX_ITER, or set both to [] to keep the "
            "masks in inference, too."
        )
    if cfg.TEST.LOSS.ENABLED and not loss_datasets(cfg):
        raise UserError(
            "TEST.LOSS.ENABLED is True, but DATASETS.TEST and TEST.LOSS.DATASETS are empty: name a "
            "data set in one of them."
        )
    evaluates = cfg.TEST.EVAL_PERIOD and (cfg.DATASETS.TEST or cfg.TEST.LOSS.ENABLED)
    if cfg.SOLVER.EARLY_STOPPING_PATIENCE and not evaluates:
        raise UserError(
            f"SOLVER.EARLY_STOPPING_PATIENCE is {cfg.SOLVER.EARLY_STOPPING_PATIENCE}, but nothing "
            "is evaluated on the way: set TEST.EVAL_PERIOD and DATASETS.TEST, or TEST.LOSS."
        )


def check_classes_of_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Raise UserError if the weights to start from, to resume or to evaluate were trained on other
    classes than those of the data sets. (Whoever loads them checks it again.)"""
    last = Path(cfg.OUTPUT_DIR, "last_checkpoint")
    if args.resume and last.is_file():
        file = str(last.with_name(last.read_text(encoding="utf-8").strip()))
    elif args.eval_only or not cfg.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD:
        file = cfg.MODEL.WEIGHTS
    else:
        return
    names = cfg.DATASETS.TEST if args.eval_only else cfg.DATASETS.TRAIN
    if os.path.isfile(file):  # of an address, or where it is missing, loading will tell
        check_trained_on(file, trained_classes(file), known_classes(cfg, names))


def check_expected(cfg: CfgNode) -> None:
    """Raise UserError unless TEST.EXPECTED_RESULTS, which are looked at last, make sense."""
    for entry in cfg.TEST.EXPECTED_RESULTS:
        kinds = [str, str, int | float, int | float]
        sound = isinstance(entry, list | tuple) and len(entry) == len(kinds)
        if not (sound and all(map(isinstance, entry, kinds))):
            raise UserError(
                f"TEST.EXPECTED_RESULTS holds {entry!r}, but an entry is [task, metric, value, "
                "tolerance], like ['panoptic_seg', 'PQ', 41.5, 0.5]."
            )


def check_output_folder(folder: str) -> None:
    """Raise FileExistsError if `folder` holds a run."""
    files = [Path(folder, name) for name in _RUN_FILES]
    # A run that failed at its start has opened metrics.json, and left it empty.
    found = [file.name for file in files if file.exists() and file.stat().st_size]
    if found:
        raise ExistingFileError(
            f"OUTPUT_DIR {folder} holds another run ({', '.join(found)}). Add --resume to continue "
            "it, or choose another OUTPUT_DIR."
        )


def check_writable(folder: str) -> None:
    """Raise UnwritableFileError unless files can be written into `folder`, or it can be made."""
    if not folder:
        raise UserError("OUTPUT_DIR is empty: name the folder that the run is kept in.")
    path = Path(folder).absolute()
    nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise UnwritableFileError(f"OUTPUT_DIR {folder}: {nearest} is not a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UnwritableFileError(
            f"OUTPUT_DIR {folder}: {nearest} cannot be written by this user, or is on a read-only "
            "disk. Choose another OUTPUT_DIR."
        )


def setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare this process: log files and, for a training, config and classes in OUTPUT_DIR; seeds.

    Like Detectron2's `default_setup`, but an evaluation leaves the config of the training alone,
    and the config goes to its file instead of the log.

    Raises:
        UnwritableFileError: OUTPUT_DIR cannot be written, or the disk is full.
    """
    register_own(cfg)  # in processes that were started for the training
    rank = comm.get_rank()
    with explained_write_errors(cfg.OUTPUT_DIR):
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        for name in ("fvcore", "mask_former"):
            setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
        logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    # Or a full disk fills the terminal with tracebacks of the log, and hides the one message.
    logging.raiseExceptions = False
    atexit.register(_close_log_files, logger)
    logger.info(f"Rank of this process: {rank} of {comm.get_world_size()}")
    logger.info("Environment:\n" + collect_env_info())
    remarks = vars(args).pop("remarks", [])
    logger.info(f"Command line: {args}")
    if comm.is_main_process():
        for remark in remarks:
            logging.getLogger(__name__).warning(remark)

    if comm.is_main_process() and not args.eval_only:
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with replaced_when_complete(path) as file:
            file.write(cfg.dump().encode())
        logging.getLogger(__name__).info(f"Config written to {path}")
        if classes := known_classes(cfg, cfg.DATASETS.TRAIN):
            write_json(os.path.join(cfg.OUTPUT_DIR, "classes.json"), classes)
        if said := rate_of_another_batch(read_settings(args.config_file, args.opts)):
            logging.getLogger(__name__).warning(said)

    # Every process has its own random numbers, the same in every run with this SEED.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)


def _close_log_files(logger: logging.Logger) -> None:
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if os.path.isfile(str(getattr(stream, "name", ""))):  # and not <stdout>
            with suppress(OSError):  # once more: a full disk
                stream.close()
