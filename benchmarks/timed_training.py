"""One training of `benchmarks.comparison`, in a process of its own on one core.

    python -m benchmarks.timed_training FOLDER

Trains by FOLDER/config.yaml and writes FOLDER/found.json: processor time and metrics at every
evaluation, the processor time of inference, and the model's size.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import mask_former  # noqa: F401  (registers the components)
from mask_former.data.writing import write_json
from mask_former.engine import (
    DefaultPredictor,
    Trainer,
    argument_parser,
    launch,
    load_config,
    reported_errors,
)
from mask_former.engine.memory import build_without_weights
from mask_former.engine.processes import end_with_parent
from mask_former.precision import training_precision
from tools.analyze_model import analyze

CONFIG, FOUND = "config.yaml", "found.json"
# The columns of the report, and what the evaluation calls them.
METRICS = {
    "mIoU": ("sem_seg", "mIoU"),
    "PQ": ("panoptic_seg", "PQ"),
    "PQ things": ("panoptic_seg", "PQ_th"),
    "PQ stuff": ("panoptic_seg", "PQ_st"),
    "AP": ("segm", "AP"),
}
SIZE = (96, 96)  # of the image that multiply-adds are counted for: the scale of the training
INFERENCE_IMAGES = 50
WARMUP_IMAGES = 5

Point = dict[str, float]
"""`iterations`, `seconds` of processor time of the training, and those of `METRICS` that the recipe
evaluates, in percent."""


class TimedTrainer(Trainer):
    """Keeps what it finds at every evaluation in `points`. The time is that of the steps, from
    loading a batch to the update of the weights, without evaluations and checkpoints."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.points: list[Point] = []
        self.seconds = 0.0

    def run_step(self) -> None:
        start = time.process_time()
        super().run_step()
        self.seconds += time.process_time() - start

    def _evaluate(self) -> dict[str, Any]:
        results = super()._evaluate()
        found = {
            name: float(results[task][metric])
            for name, (task, metric) in METRICS.items()
            if metric in results.get(task, {})
        }
        iterations = min(self.iter + 1, self.max_iter)  # Detectron2 evaluates last after the loop
        self.points.append({"iterations": iterations, "seconds": self.seconds, **found})
        return results


def train(cfg: CfgNode, _: argparse.Namespace) -> None:
    """Without data sets to evaluate on, the training alone is timed."""
    seed_all_rng(cfg.SEED)
    trainer = TimedTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    cost = analyze(build_without_weights(cfg), SIZE)[""]
    found = {
        "points": trainer.points,
        "batch size": cfg.SOLVER.IMS_PER_BATCH,
        "precision": str(training_precision(cfg)),
        "parameters": cost.parameters,
        "multiply-adds": cost.multiply_adds,
    }
    if cfg.DATASETS.TEST:
        cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR, "model_final.pth"))
        found["inference seconds"] = inference_seconds(cfg)
    write_json(Path(cfg.OUTPUT_DIR, FOUND), found)


def inference_seconds(cfg: CfgNode) -> float:
    """Processor time from an image to all results that `cfg` switches on: the median over images
    of the first data set, which are in memory."""
    predictor = DefaultPredictor(cfg)
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:INFERENCE_IMAGES]
    images = [cv2.imread(record["file_name"]) for record in records]
    for image in images[:WARMUP_IMAGES]:
        predictor(image)
    seconds = []
    for image in images:
        start = time.process_time()
        predictor(image)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in ("detectron2", "fvcore", "mask_former"):
        setup_logger(name=name)
    folder = Path(sys.argv[1])
    cfg = load_config(str(folder / CONFIG), ["OUTPUT_DIR", str(folder)])
    launch(train, cfg, argument_parser().parse_args([]))


if __name__ == "__main__":
    with reported_errors():
        main()
