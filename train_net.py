"""Train or evaluate a model.

Examples::

    python train_net.py --config-file configs/... --num-gpus 8
    python train_net.py --config-file configs/... --eval-only MODEL.WEIGHTS model.pth
    torchrun --nproc_per_node 8 train_net.py --config-file configs/...
"""

import argparse

from detectron2.config import CfgNode

from mask_former import engine


def main(cfg: CfgNode, args: argparse.Namespace) -> None:
    engine.setup(cfg, args)
    if args.eval_only:
        engine.Trainer.evaluate(cfg, resume=args.resume)
    else:
        trainer = engine.Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


if __name__ == "__main__":
    with engine.reported_errors():
        arguments = engine.argument_parser().parse_args()
        config = engine.load_config(arguments.config_file, arguments.opts)
        if engine.is_first_process(arguments):
            engine.check_run(config, arguments)
        engine.launch(main, config, arguments)
