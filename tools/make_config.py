"""Look at images, their labels and the machine, and write a config that says why, line by line.

    python -m tools.make_config IMAGES LABELS --model NAME [--output mine.yaml]

LABELS is a folder of label maps, or a JSON of instances or panoptic segments in COCO's format.
Folders or files named train and val are found; otherwise a tenth of the images is held out.
docs/OWN_DATA.md begins with this command.
"""

import argparse
import io
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode

import mask_former  # noqa: F401  (registers the components and the data sets)
from mask_former import model_zoo
from mask_former.checkpoint.atomic_write import explained_write_errors, make_folder_of
from mask_former.checkpoint.checkpointer import local_file
from mask_former.data.augmentation import build_augmentation
from mask_former.data.datasets.custom import PATHS
from mask_former.data.discovery import Suggestion, discover
from mask_former.data.report import DatasetReport, examine
from mask_former.engine import get_cfg, load_config, reported_errors
from mask_former.engine.suggest import suggest
from mask_former.errors import ExistingFileError, UserError

# Short names of models: the recipe for each format of labels. Other names are those of recipes.
_COCO, _ADE20K = "mask2former/coco", "mask2former/ade20k/semantic-segmentation"


def _mask2former(name: str) -> dict[str, str]:
    return {
        "semantic": f"{_ADE20K}/{name}_bs16_160k",
        "instances": f"{_COCO}/instance-segmentation/{name}_bs16_50ep",
        "panoptic": f"{_COCO}/panoptic-segmentation/{name}_bs16_50ep",
    }


MODELS: dict[str, dict[str, str]] = {
    "mask2former-R50": _mask2former("maskformer2_R50"),
    "mask2former-R101": _mask2former("maskformer2_R101")
    | {"semantic": f"{_ADE20K}/maskformer2_R101_bs16_90k"},
    "mask2former-swin-T": _mask2former("swin/maskformer2_swin_tiny"),
    "mask2former-swin-S": _mask2former("swin/maskformer2_swin_small"),
    "maskformer-R50": {
        "semantic": "ade20k-150/maskformer_R50_bs16_160k",
        "instances": "coco-panoptic/maskformer_panoptic_R50_bs64_554k",
        "panoptic": "coco-panoptic/maskformer_panoptic_R50_bs64_554k",
    },
    "small-mask2former": dict.fromkeys(
        ("semantic", "instances", "panoptic"), "shapes/mask2former_panoptic"
    ),
    "small-maskformer": dict.fromkeys(
        ("semantic", "instances", "panoptic"), "shapes/maskformer_panoptic_quickstart"
    ),
}
# Images of each data set that are looked at.
LIMIT = 1000
WIDTH = 100
_SHOWN = 10  # faults, and remarks
_ALL_ELSE = "the recipe, for all that is not below"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("images", metavar="IMAGES", help="folder; {split} in a path stands for train and val")
    add("labels", metavar="LABELS", help="folder of label maps, or JSON in COCO's format")
    add(
        "--model",
        default="mask2former-R50",
        help=f"{', '.join(MODELS)}, a recipe's name, or a yaml file (%(default)s)",
    )
    add("--output", type=Path, default=Path("mine.yaml"), help="the config (%(default)s)")
    add("--name", help="of the data set; default: that of the config")
    add("--classes", default="", help="a file of the classes, or NAME,NAME,...; of label maps")
    add("--ignore", default="", help="NAME,...: label maps' classes that say 'not annotated'")
    add("--label-suffix", default="", help="of label maps, such as _mask.png for photo_mask.png")
    add("--png", default="", help="folder of the panoptic PNG, if not beside the JSON")
    add("--weights", default="", help="to start from, all but the classes; default: the recipe's")
    gpus = torch.cuda.device_count()
    add("--device", default="cuda" if gpus else "cpu", help="to train on (%(default)s)")
    add("--processes", type=int, help="that will train; default: one for each GPU, or one")
    add("--overwrite", action="store_true", help="an existing config")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    args.processes = args.processes or (gpus if args.device == "cuda" else 1)
    stem = re.sub(r"\W", "_", args.output.stem)
    args.name = args.name or (stem if stem.isidentifier() else "mine")

    with reported_errors():
        if args.output.exists() and not args.overwrite:
            raise ExistingFileError(f"{args.output} exists: name another one, or --overwrite.")
        make_folder_of(args.output)
        text = make(args, shlex.join(argv))
        with explained_write_errors(args.output):
            args.output.write_text(text, encoding="utf-8")
        with redirect_stderr(io.StringIO()):  # what follows from the data has been said
            load_config(str(args.output))
    print(text)
    print(f"Look through {args.output}, then\n  {_commands(args)}")
    return 0


def make(args: argparse.Namespace, command: str) -> str:
    """The config's text, for the arguments of the command line.

    Args:
        args: the flags.
        command: the same as they were typed, for the first comment.

    Raises:
        UserError: the data are wrong, or are no such data; the recipe is a part of one.
    """
    found = discover(
        args.images,
        args.labels,
        args.output,
        classes=args.classes,
        ignore=args.ignore,
        label_suffix=args.label_suffix,
        png=args.png,
    )
    entry = f"DATASETS.CUSTOM.{args.name}"
    data = [Suggestion(f"{entry}.{f.key}", _absolute(f.key, f.value), f.why) for f in found]
    data += [
        Suggestion("DATASETS.TRAIN", [f"{args.name}_train"], ""),
        Suggestion("DATASETS.TEST", [f"{args.name}_val"], ""),
    ]
    recipe, why = _recipe(args.model, found[0].value)
    model = [Suggestion("MODEL.DEVICE", args.device, "where it is trained")]
    if args.weights:
        model += [
            Suggestion("MODEL.WEIGHTS", args.weights, "to start from"),
            Suggestion("MODEL.WEIGHTS_WITHOUT_CLASS_HEAD", True, "its classes were others"),
        ]
    if args.weights and "://" not in args.weights:
        local_file(args.weights)
    opts = [x for s in (*data, *model) for x in (s.key, s.value)]
    cfg = load_config(recipe, opts)
    if cfg.MODEL.META_ARCHITECTURE == get_cfg().MODEL.META_ARCHITECTURE:
        raise UserError(
            f"--model {args.model}: it sets no MODEL.META_ARCHITECTURE, so that it is a part of "
            "recipes, or another project's. docs/MODEL_ZOO.md has a list of recipes."
        )
    build_augmentation(cfg, is_train=True)  # its errors, before the data are read
    report, *others = examine(cfg, limit=LIMIT)
    _check([report, *others])
    made = suggest(cfg, report, args.processes)
    if not args.weights:
        model.append(_weights(cfg, args.model, found[0].value))
    output = Suggestion("OUTPUT_DIR", f"output/{args.name}", "weights, log and metrics")
    head = [
        f"Made by python -m tools.make_config {command}",
        *_facts(report),
    ]
    base = os.path.relpath(recipe, args.output.parent)
    base = os.path.abspath(recipe) if base.startswith("../../..") else base
    lines = [*_comment("\n".join(head), 0), "", *_comment(why, 0), f"_BASE_: {base}"]
    return "\n".join([*lines, *render([*data, *model, *made, output])]) + "\n"


def _recipe(model: str, task: str) -> tuple[str, str]:
    if model in MODELS:
        name = MODELS[model][task]
        return model_zoo.get_config_file(name), (
            f"the recipe of {model} for {task} segmentation, for all that is not below"
        )
    if model.endswith(".yaml") and os.path.exists(model):
        return model, _ALL_ELSE
    if model.removesuffix(".yaml") not in model_zoo.names():
        raise UserError(
            f"--model {model}: it is none of {', '.join(MODELS)}, no yaml file, and no recipe, of "
            "which docs/MODEL_ZOO.md has a list."
        )
    return model_zoo.get_config_file(model), _ALL_ELSE


def _absolute(key: str, value: Any) -> Any:
    """Paths that hold wherever the config is used from."""
    return os.path.abspath(os.path.expanduser(value)) if key in PATHS else value


def _check(reports: Sequence[DatasetReport]) -> None:
    """Raise UserError unless the data are without a fault, and hold segments."""
    faults = [fault for report in reports for fault in report.all_faults()]
    if faults:
        lines = [f"\n  {fault.message}" for fault in faults[:_SHOWN]]
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(f"The data have faults:{''.join(lines)}{more}")
    if not reports[0].segments_per_image().any():
        raise UserError("No image has a segment: there is nothing to learn.")


def _weights(cfg: CfgNode, model: str, task: str) -> Suggestion:
    name = MODELS[model][task] if model in MODELS else model
    entry = model_zoo.table()["recipes"].get(name.removesuffix(".yaml"), {})
    why = "what the training starts from: a backbone" if cfg.MODEL.WEIGHTS else "from scratch"
    if entry.get("weights"):
        why += (
            ". Far fewer iterations suffice from a trained model; the licence of the published "
            f"weights is {model_zoo.get_license(name)}: --weights {entry['weights']}"
        )
    return Suggestion("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, why)


def _facts(report: DatasetReport) -> list[str]:
    read = len(report.inspections)
    seen = "" if read == report.num_images else f", of which {read} were read"
    counts = [entry for entry in report.class_counts() if entry["images"]]
    missing = len(report.classes) - len(counts)
    return [
        f"{report.num_images} images to train on{seen}; {len(report.classes)} classes"
        + (f" ({missing} without a segment)" if missing else ""),
        f"{report.annotated_share():.1%} of the pixels are annotated",
        *(f"May be a mistake: {remark.message}" for remark in report.remarks[:_SHOWN]),
    ]


def render(suggestions: Sequence[Suggestion]) -> list[str]:
    """The lines of yaml, with what stands in one section together, and each why above its key."""
    tree: dict[str, Any] = {}
    for suggestion in suggestions:
        *sections, name = suggestion.key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = suggestion
    return list(_lines(tree, 0))


def _lines(tree: dict[str, Any], depth: int):
    indent = "  " * depth
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, depth + 1)
            continue
        yield from _comment(value.why, depth)
        text = yaml.safe_dump(value.value, default_flow_style=True, width=WIDTH - 20)
        first, *rest = text.removesuffix("...\n").splitlines()
        yield f"{indent}{name}: {first}"
        yield from (f"{indent}  {line}" for line in rest)


def _comment(why: str, depth: int) -> list[str]:
    indent = "  " * depth + "# "
    lines = (line[:1].upper() + line[1:] for line in why.splitlines() if line)
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line.rstrip(".") + ".",
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _commands(args: argparse.Namespace) -> str:
    return "\n  ".join(
        [
            f"python -m tools.check_dataset {args.output} --sheet {args.name}.png",
            f"python train_net.py --config-file {args.output}"
            + (f" --num-gpus {args.processes}" if args.processes > 1 else ""),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
