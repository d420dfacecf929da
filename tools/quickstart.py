"""From nothing to metrics and pictures on a CPU: `make quickstart`.

Makes the data set "shapes", trains a small model on it from scratch, evaluates it, and draws what
it predicts. `MODEL=mask2former` chooses a Mask2Former, instead of a MaskFormer. Every step is one
that a real project takes with its own data.
"""

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from tqdm import tqdm

import mask_former  # noqa: F401  (registers the components)
from mask_former.data.datasets import make_shapes
from mask_former.engine import (
    DefaultPredictor,
    ProgressBar,
    Trainer,
    argument_parser,
    launch,
    load_config,
    reported_errors,
)
from mask_former.engine.setup import check_output_folder
from mask_former.precision import training_precision
from mask_former.visualization import (
    ShadeTracker,
    VideoReader,
    VideoWriter,
    draw_ground_truth,
    draw_panoptic,
    make_sheet,
    plot_curves,
    read_metrics,
)

SHAPES = Path(__file__).parents[1] / "configs/shapes"
RECIPES = {
    "maskformer": SHAPES / "maskformer_panoptic_quickstart.yaml",
    "mask2former": SHAPES / "mask2former_panoptic.yaml",
}
# The table's columns: what it says, and the evaluation's name for it.
METRICS = {
    "PQ": "panoptic_seg/PQ",
    "SQ": "panoptic_seg/SQ",
    "RQ": "panoptic_seg/RQ",
    "PQ things": "panoptic_seg/PQ_th",
    "PQ stuff": "panoptic_seg/PQ_st",
    "mIoU": "sem_seg/mIoU",
    "AP": "segm/AP",
}
SHEET_IMAGES = 12
SCALE = 2  # of the pictures, relative to the small images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", choices=RECIPES, default="maskformer", help="default: maskformer"
    )
    parser.add_argument("--output", type=Path, help="folder; default: output/quickstart/MODEL")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config options")
    args = parser.parse_args()
    started = time.perf_counter()
    output = args.output or free_folder(Path("output/quickstart") / args.model)
    check_output_folder(str(output))
    cfg = load_config(str(RECIPES[args.model]), [*args.opts, "OUTPUT_DIR", str(output)])
    print("1/3  data")
    make_shapes()
    print(f"2/3  training and evaluation: {cfg.SOLVER.MAX_ITER} iterations in", end=" ")
    print(training_precision(cfg))
    training_started = time.perf_counter()
    launch(train, cfg, processes(cfg))
    minutes = (time.perf_counter() - training_started) / 60
    last = read_metrics(output / "metrics.json")[-1]
    metrics = {name: last[metric] for name, metric in METRICS.items()}
    print("3/3  pictures")
    cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
    paths = draw_pictures(cfg, DefaultPredictor(cfg), metrics)
    print(f"\n{tabulate([metrics], headers='keys', floatfmt='.1f', tablefmt='simple_outline')}")
    total = (time.perf_counter() - started) / 60
    print(f"Training took {minutes:.1f} minutes, everything {total:.1f}. Have a look at")
    for name, path in {"weights": cfg.MODEL.WEIGHTS, **paths}.items():
        print(f"  {name:<8} {path}")


def free_folder(folder: Path) -> Path:
    """`folder`, or with a number appended if it exists: no earlier run is overwritten."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def processes(cfg: CfgNode) -> argparse.Namespace:
    """Two processes where there are two cores: on small images more threads would hardly help."""
    args = argument_parser().parse_args([])
    if cfg.MODEL.DEVICE == "cpu":
        args.num_gpus = min(2, os.cpu_count() or 1)
    return args


def train(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train from scratch and evaluate, in every process.

    The log goes to a file, so that the progress bar has the terminal for itself.
    """
    for name in ("detectron2", "fvcore", "mask_former"):
        setup_logger(
            cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name, configure_stdout=False
        )
    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = Trainer(cfg)
    if comm.is_main_process():
        trainer.register_hooks([ProgressBar(show=True)])
    trainer.resume_or_load(resume=False)
    trainer.train()


def draw_pictures(
    cfg: CfgNode, predictor: DefaultPredictor, metrics: Mapping[str, float]
) -> dict[str, Path]:
    """Draw the sheet, the curves and the video; return where they are."""
    output = Path(cfg.OUTPUT_DIR)
    paths = {
        "sheet": output / "predictions.png",
        "curves": output / "curves.png",
        "video": output / "video.mp4",
        "log": output / "log.txt",
    }
    caption = "   ".join(f"{name} {value:.1f}" for name, value in metrics.items())
    cv2.imwrite(str(paths["sheet"]), draw_sheet(cfg.DATASETS.TEST[0], predictor, caption))
    plot_curves(output / "metrics.json", paths["curves"], title="Training on shapes")
    draw_video(make_shapes() / "video.mp4", paths["video"], predictor)
    return paths


def draw_sheet(dataset: str, predictor: DefaultPredictor, caption: str) -> np.ndarray:
    """Validation images, evenly spaced: input, ground truth, prediction."""
    records = DatasetCatalog.get(dataset)
    rows = []
    for record in tqdm(records[:: max(1, len(records) // SHEET_IMAGES)][:SHEET_IMAGES], "Sheet"):
        image = cv2.imread(record["file_name"])
        enlarged = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
        truth = draw_ground_truth(image, record, predictor.metadata, scale=SCALE)
        rows.append([enlarged, truth, draw_prediction(image, predictor)])
    return make_sheet(rows, ["input", "ground truth", "prediction"], caption=caption, across=3)


def draw_prediction(
    image: np.ndarray, predictor: DefaultPredictor, tracker: ShadeTracker | None = None
) -> np.ndarray:
    found = predictor(image)["panoptic_seg"]
    shades = tracker.update(*found) if tracker else None
    return draw_panoptic(image, *found, predictor.metadata, shades=shades, scale=SCALE)


def draw_video(source: Path, target: Path, predictor: DefaultPredictor) -> None:
    # Colours follow the instances from frame to frame.
    tracker = ShadeTracker()
    with VideoReader(source) as reader, VideoWriter(target, reader.fps) as writer:
        for frame in tqdm(reader, "Video", total=reader.num_frames):
            writer.write(draw_prediction(frame, predictor, tracker))


if __name__ == "__main__":
    with reported_errors():
        main()
