"""Score saved predictions against ground truth, without a model.

    # what the demo or an evaluation has saved, against the test set of a config
    python -m tools.score output/mine/inference/mine_val --config-file output/mine/config.yaml
    # against files: COCO panoptic, COCO instances, or a folder of label maps
    python -m tools.score pictures/results --panoptic-json mine/panoptic_val.json
    python -m tools.score instances.json --instances-json mine/instances_val.json
    python -m tools.score pictures/results --labels mine/labels_val

Predictions of other programs are read, too, in the same formats: a panoptic JSON beside a folder of
its PNG, a list of instances in COCO's result format, a folder of PNG of class ids. The metrics are
those of an evaluation: PQ, AP, mIoU.
"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.datasets import register_instances, register_panoptic, register_semantic
from mask_former.data.datasets.class_file import read_class_file
from mask_former.data.writing import write_json
from mask_former.engine import load_config, reported_errors
from mask_former.errors import MissingFileError, UserError
from mask_former.evaluation.score import find_results, score

NAME = "ground truth"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("results", help="folder of results, or a file of it")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--config-file", help="ground truth: a test set of this config")
    truth.add_argument("--panoptic-json", type=Path, help="ground truth: COCO panoptic")
    truth.add_argument("--instances-json", type=Path, help="ground truth: COCO instances")
    truth.add_argument("--labels", type=Path, help="ground truth: a folder of label maps")
    add("--dataset", help="with --config-file: which of its test sets (default: the first)")
    add("--panoptic-root", type=Path, help="folder of the PNG; default: the JSON's name")
    add("--classes", type=Path, help="with --labels: names in order, as JSON or one a line")
    add("--ignore-label", type=int, default=255, help="with --labels: of pixels that do not count")
    add("--output", type=Path, help="JSON file for the metrics")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line; returns the metrics, by task."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("mask_former.evaluation").setLevel(logging.INFO)
    results = find_results(args.results)
    cfg = load_config(args.config_file or "", args.opts)
    if args.config_file:
        name = args.dataset or next(iter(cfg.DATASETS.TEST), None)
        if name is None:
            raise UserError(f"{args.config_file} names no DATASETS.TEST: choose a --dataset.")
        metrics = score(results, cfg, name)
    else:
        register(args, cfg, results)
        try:
            metrics = score(results, cfg, NAME)
        finally:
            DatasetCatalog.remove(NAME)
            MetadataCatalog.remove(NAME)
    if args.output:
        write_json(args.output, finite(metrics))
    return metrics


def register(args: argparse.Namespace, cfg: CfgNode, results: dict[str, Path]) -> None:
    """Register the files that the flags name as a data set. Images are not read."""
    if args.panoptic_json:
        root = args.panoptic_root or args.panoptic_json.with_suffix("")
        register_panoptic(
            NAME,
            image_root=args.panoptic_json.parent,
            panoptic_root=root,
            panoptic_json=args.panoptic_json,
        )
    elif args.instances_json:
        folder = args.instances_json.parent
        register_instances(NAME, image_root=folder, json_file=args.instances_json)
    else:
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = args.ignore_label
        register_semantic(
            NAME,
            image_root=args.labels,
            sem_seg_root=args.labels,
            classes=read_names(args.classes or results.get("semantic")),
            ignore_label=args.ignore_label,
        )


def read_names(path: Path | None) -> list[str]:
    """The names of the classes in a file, see `read_class_file`."""
    if path is None or not path.is_file():
        raise MissingFileError(
            "The classes are not known: name them with --classes FILE, such as the classes.json of "
            "the training, or a text file with one name a line."
        )
    return list(read_class_file(path).names)


def finite(metrics: Any) -> Any:
    """The metrics with null for NaN, which JSON does not have."""
    if isinstance(metrics, dict):
        return {name: finite(value) for name, value in metrics.items()}
    return metrics if math.isfinite(metrics) else None


if __name__ == "__main__":
    with reported_errors():
        main()
