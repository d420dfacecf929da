"""Training time until the quickstart's model reaches a panoptic quality.

    python -m benchmarks.quickstart

Trains the quickstart's recipe and evaluates it every few iterations; evaluations are not counted.
The machine should have nothing else to do: to compare two states of the code, let them take turns.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

import mask_former  # noqa: F401  (registers the components)
from mask_former.data.datasets import make_shapes
from mask_former.engine import Trainer, launch, load_config
from tools.quickstart import CONFIG, processes


class Reached(Exception):
    """The panoptic quality that was asked for."""


class TimedTrainer(Trainer):
    """Writes down the iterations, the seconds of training and the PQ at every evaluation."""

    def train(self) -> dict[str, Any]:
        self.points: list[dict[str, float]] = []
        self.started, self.evaluating = time.perf_counter(), 0.0
        return super().train()

    def _evaluate(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started - self.evaluating
        results = super()._evaluate()
        pq = comm.all_gather(results["panoptic_seg"]["PQ"] if results else None)[0]
        self.points.append({"iterations": self.iter + 1, "seconds": seconds, "PQ": pq})
        self.evaluating = time.perf_counter() - self.started - seconds
        if comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR) / "points.json"
            path.write_text(json.dumps(self.points))
            print(f"{self.iter + 1:5} iterations  {seconds:6.1f} s  PQ {pq:.1f}", flush=True)
        if pq >= self.target:
            raise Reached
        return results


def train(cfg: CfgNode, args: argparse.Namespace) -> None:
    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = TimedTrainer(cfg)
    trainer.target = args.target
    trainer.resume_or_load(resume=False)
    with contextlib.suppress(Reached):
        trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=70.0, help="PQ to reach; default: 70")
    parser.add_argument("--every", type=int, default=25, help="iterations between evaluations")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config options")
    args = parser.parse_args()
    make_shapes()
    with tempfile.TemporaryDirectory() as folder:
        opts = ["TEST.EVAL_PERIOD", str(args.every), "OUTPUT_DIR", folder, *args.opts]
        cfg = load_config(str(CONFIG), opts)
        launch_args = processes(cfg)
        launch_args.target = args.target
        launch(train, cfg, launch_args)


if __name__ == "__main__":
    main()
