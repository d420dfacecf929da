"""Segment images, videos and what a camera sees.

    python demo/demo.py --config-file CONFIG --input photo.jpg folder '*.png' --output pictures \
        --opts MODEL.WEIGHTS model.pth
    python demo/demo.py --config-file CONFIG --video-input clip.mp4 --output segmented.mp4 ...
    python demo/demo.py --config-file CONFIG --webcam --show ...

Exit codes: 0, all done; 1, some input could not be segmented, the rest is done; 2, nothing was
done; 128 + n, signal n ended it (130: Ctrl-C), after what is done was saved.
"""

import argparse
import math
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

import mask_former  # noqa: F401  (registers the components)
from mask_former import visualization
from mask_former.data.reading import read_image
from mask_former.data.writing import write_image
from mask_former.engine import load_config, reported_errors
from mask_former.engine.interruption import asked, noted_signals
from mask_former.engine.predict import TASKS, DefaultPredictor, select_task
from mask_former.errors import UserError
from mask_former.evaluation.counts import CountWriter, ObjectCounter
from mask_former.evaluation.results import ResultWriter, find_image_ids
from mask_former.visualization import VideoReader, VideoWriter, files

DEFAULT_INSTANCE_THRESHOLD = 0.5
WINDOW = "MaskFormer (q: quit)"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Segment images, videos and what a camera sees.",
        epilog="Exit codes: 0 all done; 1 some input could not be segmented; 2 nothing was done; "
        "130 ended by Ctrl-C.",
    )
    add = parser.add_argument
    add("--config-file", required=True, help="the model's yaml file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images, folders of images, quoted globs")
    source.add_argument("--video-input", metavar="FILE", help="a video")
    source.add_argument("--webcam", nargs="?", type=int, const=0, metavar="N", help="a camera (0)")
    add("--output", type=Path, help="a file, or a folder, which is made when missing")
    add("--show", action="store_true", help="show the results in a window")
    add(
        "--save-results",
        action="store_true",
        help="save the predictions, as COCO JSON and PNG, beside the pictures",
    )
    add(
        "--image-ids",
        metavar="JSON|names",
        help="the ids that results are saved under: those of a COCO JSON with the same images, or "
        "the file names without suffix (default: numbers in order)",
    )
    add(
        "--count",
        action="store_true",
        help="write the numbers of objects of each class into the pictures and, as counts.csv, "
        "beside them",
    )
    add("--task", choices=TASKS, help="default: the first of these that the config switches on")
    add(
        "--confidence-threshold",
        type=float,
        metavar="X",
        help="panoptic: the same as MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD; instance: least "
        f"score shown and saved (default {DEFAULT_INSTANCE_THRESHOLD}); semantic has none",
    )
    add("--scale", type=float, default=1.0, help="size of the pictures relative to the input")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_flags(parser, args)
    with reported_errors():
        cfg = load_config(args.config_file, args.opts)
        cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_LABELS = True
        task = select_task(cfg, args.task, args.confidence_threshold)
        run = run_images if args.input else run_video
        # Until all files are closed: Ctrl-C ends the demo between two images.
        with noted_signals():
            done, failures = run(cfg, task, args)
            signal = asked()
    if failures:
        print(
            f"error: {len(failures)} could not be segmented:",
            *failures,
            sep="\n  ",
            file=sys.stderr,
        )
    if signal and args.webcam is None:  # what a camera sees has no other end
        what = "images" if args.input else "frames"
        print(f"ended by {signal.name}: {done} {what} are done", file=sys.stderr)
        return 128 + signal
    if failures:
        return 1 if done else 2
    return 0


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with exit code 2 when flags do not make sense together."""
    if args.output is None and not args.show:
        parser.error("the pictures would be lost: give --output FILE_OR_FOLDER or --show")
    if args.save_results and args.output is None:
        parser.error("--save-results needs --output: results are saved beside the pictures")
    if args.image_ids and not (args.save_results and args.input):
        parser.error("--image-ids is for --save-results of --input: what else would have an id?")
    if args.confidence_threshold is not None and not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold {args.confidence_threshold} is not in 0..1")
    if not 0 < args.scale < math.inf:
        parser.error(f"--scale {args.scale} is not a positive number: 1 is the input's size")
    # Without a display the window library ends the whole process, so it must not be tried.
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if args.show and sys.platform.startswith("linux") and not display:
        parser.error("--show needs a display and there is none: give --output instead")


def run_images(cfg: CfgNode, task: str, args: argparse.Namespace) -> tuple[int, list[str]]:
    """Segment images. Returns how many, and a message for each that could not be segmented."""
    images, failures = files.find_images(args.input)
    if not images:
        print("error: nothing to segment:", *failures, sep="\n  ", file=sys.stderr)
        sys.exit(2)
    pictures = files.plan_pictures(images, args.output) if args.output else [None] * len(images)
    ids = find_image_ids(images, args.image_ids) if args.image_ids else [None] * len(images)
    demo = Demo(cfg, task, args)
    done = empty = 0
    with demo.open_results() as results, demo.open_counts() as counts:
        bar = tqdm(images, unit="image", disable=None)
        for path, target, image_id in zip(bar, pictures, ids, strict=True):
            if asked():
                break
            try:
                image = read_image(str(path), "BGR", exif=cfg.INPUT.EXIF_ORIENTATION)
                picture, prediction = demo.segment(image)
            except UserError as error:
                failures.append(str(error))
                continue
            except Exception as error:  # a bug of ours, for which the others need not wait
                traceback.print_exc()
                failures.append(f"{path}: {type(error).__name__}: {error} (see above)")
                continue
            if target:
                write_image(target, picture, "BGR")
            if results:
                results.add(target.stem, str(path), image.shape[:2], prediction, image_id)
            if counts:
                counts.add(str(path), prediction)
            done += 1
            empty += not demo.found_something(prediction)
            if not demo.show(picture, milliseconds=0):
                break
    if done:
        print(f"{done} images segmented{demo.remark(empty)}; pictures: {args.output or 'shown'}")
    return done, failures


def run_video(cfg: CfgNode, task: str, args: argparse.Namespace) -> tuple[int, list[str]]:
    """Segment a video, or what a camera sees, until Ctrl-C. Returns the number of frames, and a
    message if the video broke off."""
    is_camera = args.webcam is not None
    name = Path(f"camera_{args.webcam}" if is_camera else args.video_input)
    target = files.plan_video(name, args.output) if args.output else None
    number = 0
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(args.webcam if is_camera else name))
        demo = Demo(cfg, task, args)
        writer = stack.enter_context(VideoWriter(target, reader.fps)) if target else None
        results = stack.enter_context(demo.open_results())
        counts = stack.enter_context(demo.open_counts())
        frames = tqdm(reader, total=reader.num_frames, unit="frame", disable=None)
        for number, frame in enumerate(frames, start=1):
            picture, prediction = demo.segment(frame)
            if writer:
                writer.write(picture)
            if results:
                results.add(f"{number:06d}", f"{name}#{number}", frame.shape[:2], prediction)
            if counts:
                counts.add(f"{name}#{number}", prediction)
            if not demo.show(picture, milliseconds=1) or asked():
                return number, []
    print(f"{number} frames segmented; pictures: {target or 'shown'}")
    # Formats that store no number of frames give an estimate of it, hence the one to spare.
    if reader.num_frames and number < reader.num_frames - 1:
        return number, [f"{name} breaks off after {number} of {reader.num_frames} frames"]
    return number, []


class Demo:
    """Predicts and draws, and saves and shows what the flags ask for."""

    def __init__(self, cfg: CfgNode, task: str, args: argparse.Namespace) -> None:
        self._args = args
        self._task = task
        self._predictor = DefaultPredictor(cfg)
        threshold = args.confidence_threshold
        self._threshold = DEFAULT_INSTANCE_THRESHOLD if threshold is None else threshold
        if args.count and task == "semantic":
            raise UserError("--count: semantic segmentation has no objects; choose another --task")
        self._counter = ObjectCounter(self._predictor.metadata) if args.count else None
        # Colours follow the instances of a video; separate images have nothing to follow.
        self._tracker = None if args.input else visualization.ShadeTracker()

    def segment(self, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """The picture of an image, both uint8 (H, W, 3) BGR, and the prediction that it shows."""
        prediction = self._predictor(image)
        metadata, scale = self._predictor.metadata, self._args.scale
        if self._task == "panoptic":
            found = prediction["panoptic_seg"]
            shades = self._tracker.update(*found) if self._tracker else None
            picture = visualization.draw_panoptic(
                image, *found, metadata, shades=shades, scale=scale
            )
        elif self._task == "semantic":
            labels = prediction["sem_seg"]
            if labels.ndim == 3:  # scores, as of the per-pixel baselines
                labels = labels.argmax(0)
            prediction = {"sem_seg": labels}
            picture = visualization.draw_semantic(image, labels, metadata, scale=scale)
        else:
            instances = prediction["instances"]
            instances = instances[instances.scores >= self._threshold]
            prediction = {"instances": instances}
            picture = visualization.draw_instances(image, instances, metadata, scale=scale)
        if self._counter:
            visualization.draw_counts(picture, self._counter(prediction), metadata)
        return picture, prediction

    def found_something(self, prediction: dict[str, Any]) -> bool:
        """Whether there is anything to draw. (Semantic segmentation labels every pixel.)"""
        if self._task == "panoptic":
            return len(prediction["panoptic_seg"][1]) > 0
        return self._task == "semantic" or len(prediction["instances"]) > 0

    def remark(self, empty: int) -> str:
        """On images without a prediction, for the last line."""
        if not empty:
            return ""
        if self._args.confidence_threshold == 0:  # which a lower one cannot mend
            return f", in {empty} of which nothing is found"
        return f", in {empty} of which nothing is above the threshold (--confidence-threshold)"

    def open_results(self) -> ResultWriter | nullcontext[None]:
        """Where machine-readable results go: beside the pictures, or nowhere."""
        if not self._args.save_results:
            return nullcontext()
        return ResultWriter(self._results_folder(), self._predictor.metadata)

    def open_counts(self) -> CountWriter | nullcontext[None]:
        """Where the numbers of objects go: beside the pictures, or nowhere."""
        if self._counter is None or self._args.output is None:
            return nullcontext()
        return CountWriter(self._results_folder() / "counts.csv", self._counter)

    def _results_folder(self) -> Path:
        output = self._args.output
        is_file = files.is_file(output)
        return output.with_name(f"{output.stem}_results") if is_file else output / "results"

    def show(self, picture: np.ndarray, milliseconds: int) -> bool:
        """Show a picture, if asked for; 0: until a key is pressed. False: the user quits."""
        if not self._args.show:
            return True
        cv2.imshow(WINDOW, picture)
        return cv2.waitKey(milliseconds) & 0xFF not in (ord("q"), 27)


if __name__ == "__main__":
    sys.exit(main())
