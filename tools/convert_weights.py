"""Convert weights of other code bases to ours, and MaskFormer, Mask2Former and EoMT to
`transformers`.

    # a model of transformers; its config.json becomes model.yaml
    python -m tools.convert_weights FOLDER model.pth
    # and back: a folder with model.safetensors, config.json, preprocessor_config.json
    python -m tools.convert_weights --to hf --config-file model.yaml model.pth FOLDER
    # a backbone trained on ImageNet: of torchvision, of timm, of Swin's authors
    python -m tools.convert_weights swin_tiny_patch4_window7_224.pth swin_tiny.pkl

Conversion is a convenience: `MODEL.WEIGHTS` takes all these files as they are. With a configuration
the result is checked against the model that it describes. Nothing in a file is run.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

import mask_former.data  # noqa: F401 (registers the data sets)
from mask_former.checkpoint import SOURCES, Conversion, MaskFormerCheckpointer, read_as_ours
from mask_former.checkpoint.classes import Category
from mask_former.checkpoint.hugging_face import (
    as_in_inference,
    config_to_hugging_face,
    find_weights,
    processor_to_hugging_face,
    read_config_beside,
    to_hugging_face,
    write_folder,
)
from mask_former.checkpoint.hugging_face.mapping import nested
from mask_former.checkpoint.write import write_weights, write_yaml
from mask_former.engine import load_config, reported_errors


def convert_to_ours(
    path: str, output: str, *, source: str | None = None, cfg: CfgNode | None = None
) -> str:
    """Write weights under our names; for a model of `transformers` also its configuration.

    Args:
        path: a file, or a folder of `transformers`.
        output: file to write, .pth, .safetensors or .pkl.
        source: whose weights they are, a key of `SOURCES`; by default found by their names.
        cfg: the model that they must fit. By default that of the configuration that comes with
            them, which is then written beside `output` as .yaml.

    Returns:
        a report.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file is broken, of an unknown code base, or of another model.
    """
    conversion = read_as_ours(path, source)
    lines = [_report(conversion), f"{output}: weights"]
    keys = None
    if cfg is None and conversion.source == "hf":
        keys = read_config_beside(path, conversion.weights)
    if keys is not None:
        cfg = load_config(opts=[x for pair in keys.items() for x in pair])
    if cfg is not None:
        check_fit(cfg, path, accept_backbone=True)
    write_weights(output, conversion.weights, conversion.classes)
    if keys is not None:
        yaml_file = str(Path(output).with_suffix(".yaml"))
        keys["MODEL.WEIGHTS"] = output
        comment = f"Converted from {path}. Add DATASETS, and what you train with."
        write_yaml(yaml_file, nested(keys), comment)
        lines.append(f"{yaml_file}: configuration")
    return "\n".join(lines)


def convert_to_hugging_face(path: str, output: str, *, cfg: CfgNode) -> str:
    """Write a folder that `from_pretrained` of `transformers` reads.

    Args:
        path: a file of weights of a whole model.
        output: folder to write.
        cfg: the model's configuration.

    Returns:
        a report.

    Raises:
        MissingFileError: there is no such file.
        UserError: the weights do not fit `cfg`, or `transformers` has no such model.
    """
    conversion = read_as_ours(path)
    config = config_to_hugging_face(cfg, _class_names(cfg, conversion.classes))
    check_fit(cfg, path, accept_backbone=False)
    processor = processor_to_hugging_face(cfg)
    weights = to_hugging_face(
        as_in_inference(cfg, conversion.weights),
        no_object_weight=cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT,
    )
    write_folder(output, weights, config, processor)
    return f"{_report(conversion)}\n{output}: model of transformers, {len(weights)} tensors"


def check_fit(cfg: CfgNode, path: str, *, accept_backbone: bool) -> None:
    """Load a file into the model of a configuration, as a training or an evaluation would.

    Raises:
        UserError: it does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # Panoptic and instance inference would need the data set, to know which classes are things.
    test = cfg.MODEL.MASK_FORMER.TEST
    test.SEMANTIC_ON, test.PANOPTIC_ON, test.INSTANCE_ON = True, False, False
    checkpointer = MaskFormerCheckpointer(build_model(cfg), accept_backbone=accept_backbone)
    checkpointer.load(find_weights(path), [])


def _class_names(cfg: CfgNode, classes: Sequence[Category] | None) -> Sequence[str] | None:
    """Names of the classes by contiguous id, of the weights or else, if the metadata of a
    registered data set has them, of that."""
    if classes is not None:
        return [category["name"] for category in classes]
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name)
        for key in ("stuff_classes", "thing_classes"):
            try:
                classes = metadata.get(key)
            except FileNotFoundError:  # of the data set's own files
                continue
            if classes is not None and len(classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
                return classes
    return None


def _report(conversion: Conversion) -> str:
    kinds = Counter(re.sub(r"\d+", "N", name) for name in conversion.left_out)
    left_out = "".join(f"\n  {name} ({count})" for name, count in kinds.items())
    return (
        f"Weights of '{conversion.source}': {len(conversion.weights)} of our tensors; of theirs "
        f"{len(conversion.left_out)} left out{':' if left_out else ''}{left_out}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="file of weights, or folder of transformers")
    parser.add_argument("output", help="file to write, or with `--to hf` a folder")
    parser.add_argument(
        "--from",
        dest="source",
        choices=SOURCES,
        help="the code base that they are of; by default found by their names",
    )
    parser.add_argument("--to", choices=("ours", "hf"), default="ours")
    parser.add_argument("--config-file", default="", help="our configuration of the model")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options, KEY VALUE ...")
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, args.opts) if args.config_file or args.opts else None
    if args.to == "ours":
        print(convert_to_ours(args.input, args.output, source=args.source, cfg=cfg))
    elif cfg is None:
        parser.error("--to hf needs the --config-file of the model")
    else:
        print(convert_to_hugging_face(args.input, args.output, cfg=cfg))


if __name__ == "__main__":
    with reported_errors():
        main()
