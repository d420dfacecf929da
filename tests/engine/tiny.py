"""train_net.py with a very small backbone and an observer, in this process or in others.

    python -m tests.engine.tiny --record FILE [--kill-after N [--by SIGNAL]] <flags of train_net.py>

Trains a real MaskFormer, with dropout, on the CPU. Writes the loss of every iteration and the
metrics of the last evaluation to FILE; with --kill-after N the last of its processes kills itself,
as `kill -9` does or by another signal, after iteration N.
"""

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from PIL import Image
from torch import nn

import mask_former  # noqa: F401
from mask_former import engine
from mask_former.engine.config import get_cfg
from tests import forks

# Of the shapes data set; things come first.
NUM_THINGS, NUM_CLASSES = 6, 10
CHANNELS = {"res2": 8, "res3": 16, "res4": 16, "res5": 32}
# A batch trains like its parts then, whether they come one by one or to several processes. One size
# of image, because a part is padded to its own largest image; no dropout. SGD, because Adam makes
# steps of full length of the rounding errors of a zero gradient.
LIKE_ITS_PARTS = {
    "INPUT__MIN_SIZE_TRAIN": (64,),
    "INPUT__SIZE_DIVISIBILITY": 96,
    "MODEL__MASK_FORMER__DROPOUT": 0.0,
    "SOLVER__OPTIMIZER": "SGD",
    "SOLVER__BASE_LR": 0.05,
    "SOLVER__BACKBONE_MULTIPLIER": 1.0,
    "SOLVER__EMA_DECAY": 0.5,
}


@BACKBONE_REGISTRY.register()
class TinyBackbone(Backbone):
    """Four strided convolutions."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        last, stride = 3, 4
        for name, channels in CHANNELS.items():
            conv = nn.Conv2d(last, channels, kernel_size=stride, stride=stride)
            self.add_module(name, nn.Sequential(conv, nn.GroupNorm(4, channels), nn.ReLU()))
            last, stride = channels, 2

    def forward(self, x):
        features = {}
        for name in CHANNELS:
            features[name] = x = self.get_submodule(name)(x)
        return features

    def output_shape(self):
        return {
            name: ShapeSpec(channels=channels, stride=4 * 2**i)
            for i, (name, channels) in enumerate(CHANNELS.items())
        }


@META_ARCH_REGISTRY.register()
class ShiftedTruth(nn.Module):
    """Predicts the ground truth, moved by some pixels: metrics between bad and perfect."""

    def __init__(self, cfg):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return [self.predict(record["sem_seg_file_name"]) for record in batch]

    def predict(self, label_file):
        labels = torch.from_numpy(np.array(Image.open(label_file))).int()
        labels = labels.roll((int(self.shift), 0), (0, 1))
        classes = [int(c) for c in labels.unique() if c < NUM_CLASSES]
        masks = torch.stack([labels == c for c in classes])
        return {
            "sem_seg": torch.stack([(labels == c).float() for c in range(NUM_CLASSES)]),
            "panoptic_seg": (
                torch.where(labels < NUM_CLASSES, labels + 1, 0),
                [{"id": c + 1, "category_id": c, "isthing": c < NUM_THINGS} for c in classes],
            ),
            "instances": Instances(
                labels.shape,
                pred_masks=masks,
                pred_boxes=BitMasks(masks).get_bounding_boxes(),
                pred_classes=torch.tensor(classes),
                scores=masks.float().mean((1, 2)),
            )[torch.tensor(classes) < NUM_THINGS],
        }


def tiny_cfg(output_dir, **opts):
    """A config that trains in a second on the shapes data set; `opts` with __ for the dots."""
    cfg = get_cfg()
    values = {
        "OUTPUT_DIR": str(output_dir),
        "SEED": 7,
        "DATASETS.TRAIN": ("shapes_train_panoptic",),
        "DATASETS.TEST": ("shapes_val_panoptic",),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.DATASET_MAPPER_NAME": "mask_former_panoptic",
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": (64, 96),
        "INPUT.MIN_SIZE_TEST": 64,
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "MaskFormer",
        "MODEL.BACKBONE.NAME": "TinyBackbone",
        "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": list(CHANNELS),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": NUM_CLASSES,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
        "MODEL.SEM_SEG_HEAD.NORM": "GN",
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 20,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
        "MODEL.MASK_FORMER.NHEADS": 4,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
        "MODEL.MASK_FORMER.DEC_LAYERS": 2,
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
        "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 1e-3,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER.WARMUP_ITERS": 2,
        "SOLVER.MAX_ITER": 6,
        "SOLVER.CHECKPOINT_PERIOD": 3,
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.5,
    }
    values |= {name.replace("__", "."): value for name, value in opts.items()}
    for key, value in values.items():
        cfg.merge_from_list([key, value])
    return cfg


class Observer(HookBase):
    """Keeps the losses of all iterations; kills the process after one of them."""

    def __init__(self, kill_after, by):
        self.losses = {}
        self._kill_after = kill_after
        self._by = signal.Signals[by]

    def after_step(self):
        if comm.is_main_process():
            self.losses[self.trainer.iter] = self.trainer.storage.latest()["total_loss"][0]
        is_last = comm.get_rank() == comm.get_world_size() - 1
        if self.trainer.iter == self._kill_after and is_last:
            os.kill(os.getpid(), self._by)


def argument_parser():
    parser = argparse.ArgumentParser(
        parents=[engine.argument_parser()], add_help=False, conflict_handler="resolve"
    )
    parser.add_argument("--record", required=True)
    parser.add_argument("--kill-after", type=int, default=-1)
    parser.add_argument("--by", default="SIGKILL")
    return parser


def main(cfg, args):
    engine.setup(cfg, args)
    observer = Observer(args.kill_after, args.by)
    if args.eval_only:
        metrics = engine.Trainer.evaluate(cfg, resume=args.resume)
    else:
        trainer = engine.Trainer(cfg)
        trainer.register_hooks([observer])
        trainer.resume_or_load(resume=args.resume)
        metrics = trainer.train()
    if comm.is_main_process():
        with open(args.record, "w") as file:
            json.dump({"losses": observer.losses, "metrics": metrics}, file)


def run_here(cfg, *flags):
    """Run in this process; returns what was recorded."""
    record = f"{cfg.OUTPUT_DIR}.json"
    with restored_loggers():
        main(cfg, argument_parser().parse_args(["--record", record, *flags]))
    return read_record(cfg)


@contextmanager
def restored_loggers():
    """Take back what a run does to the loggers: they belong to the process, with all its tests."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "mask_former")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            for handler in set(logger.handlers) - set(handlers):
                logger.removeHandler(handler)
            logger.propagate, logger.level = propagate, level


def start(cfg, *flags, torchrun=(), **options):
    """Start other processes with flags of train_net.py, under torchrun if it is given flags.

    Args:
        options: of `subprocess.Popen`.
    """
    launcher = ["-m", "torch.distributed.run", *torchrun] if torchrun else []
    command = [sys.executable, *launcher, "-m", "tests.engine.tiny"]
    return subprocess.Popen(
        [*command, *_write_command(cfg, flags)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def run_in_two(cfg, *flags):
    """Run in two processes that are told of each other as torchrun tells them.

    Returns:
        Their exit codes, and what they printed.
    """
    argv, log = _write_command(cfg, flags), Path(f"{cfg.OUTPUT_DIR}.log")
    log.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [forks.start(log, _run_as, rank, port, argv) for rank in range(2)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes], log.read_text()


def _run_as(rank, port, argv):
    size = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ.update(**size, **place, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        run_command(argv)
    finally:
        # A thread that gives back a tensor while Python ends ends the process with an abort.
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        assert not [name for name in names if "gloo" in name], names


def _write_command(cfg, flags):
    """The flags of this module's command line for a cfg, which is written to a file."""
    config = f"{cfg.OUTPUT_DIR}.yaml"
    with open(config, "w") as file:
        file.write(cfg.dump())
    return ["--record", f"{cfg.OUTPUT_DIR}.json", "--config-file", config, *flags]


def read_record(cfg):
    with open(f"{cfg.OUTPUT_DIR}.json") as file:
        return json.load(file)


def run_command(argv):
    """What the command line does."""
    with engine.reported_errors():
        arguments = argument_parser().parse_args(argv)
        engine.launch(main, engine.load_config(arguments.config_file, arguments.opts), arguments)


if __name__ == "__main__":
    run_command(None)
