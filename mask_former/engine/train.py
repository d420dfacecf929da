"""The command that trains or evaluates a model: `train_net.py`, or `mask-former train`."""

import argparse
from collections.abc import Sequence

from detectron2.config import CfgNode

from mask_former.engine.config import load_config
from mask_former.engine.errors import reported_errors
from mask_former.engine.launch import is_first_process, launch
from mask_former.engine.setup import argument_parser, check_run, setup
from mask_former.engine.trainer import Trainer
from mask_former.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line, in as many processes as it says."""
    with reported_errors():
        args = argument_parser().parse_args(argv)
        if not (args.config_file or args.opts):
            raise UserError("--config-file is missing: it names a recipe of configs/, or your own.")
        cfg = load_config(args.config_file, args.opts)
        if is_first_process(args):
            check_run(cfg, args)
        launch(train, cfg, args)


def train(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train, or with `--eval-only` evaluate; called in every process."""
    setup(cfg, args)
    if args.eval_only:
        Trainer.evaluate(cfg, resume=args.resume)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
