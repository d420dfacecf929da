"""train_net.py with a very small backbone and an observer, for tests that need real processes.

    python -m tests.engine.tiny --losses FILE [--kill-after N] <flags of train_net.py>

Trains a real MaskFormer, with dropout, on the CPU. Writes the loss of every iteration to FILE;
with --kill-after N it kills itself, as `kill -9` does, after iteration N.
"""

import argparse
import json
import os
import signal

from detectron2.engine import HookBase
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.utils import comm
from torch import nn

import mask_former  # noqa: F401
from mask_former import engine
from mask_former.engine.config import get_cfg

CHANNELS = {"res2": 8, "res3": 16, "res4": 16, "res5": 32}


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
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 10,
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
    """Writes the losses of all iterations so far; kills the process after one of them."""

    def __init__(self, path, kill_after):
        self._path = path
        self._kill_after = kill_after
        self._losses = {}

    def after_step(self):
        if comm.is_main_process():
            latest = self.trainer.storage.latest()
            self._losses[self.trainer.iter] = latest["total_loss"][0]
            with open(self._path, "w") as file:
                json.dump(self._losses, file)
        if self.trainer.iter == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def main(cfg, args):
    engine.setup(cfg, args)
    if args.eval_only:
        results = engine.Trainer.evaluate(cfg, resume=args.resume)
        if comm.is_main_process():
            with open(args.losses, "w") as file:
                json.dump(results, file)
        return
    trainer = engine.Trainer(cfg)
    trainer.register_hooks([Observer(args.losses, args.kill_after)])
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        parents=[engine.argument_parser()], add_help=False, conflict_handler="resolve"
    )
    parser.add_argument("--losses", required=True)
    parser.add_argument("--kill-after", type=int, default=-1)
    arguments = parser.parse_args()
    with engine.reported_errors():
        config = engine.load_config(arguments.config_file, arguments.opts)
        if engine.is_first_process(arguments):
            engine.check_run(config, arguments)
        engine.launch(main, config, arguments)
