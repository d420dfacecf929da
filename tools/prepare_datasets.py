"""Make or convert data sets: `python -m tools.prepare_datasets NAME... [--root FOLDER]`.

docs/DATASETS.md says where to download each, and shows its folders before and after.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from mask_former.data.datasets import datasets_root, make_shapes
from mask_former.data.datasets.ade20k import prepare_ade20k, prepare_ade20k_panoptic
from mask_former.data.datasets.ade20k_full import prepare_ade20k_full
from mask_former.data.datasets.cityscapes import prepare_cityscapes
from mask_former.data.datasets.coco import prepare_coco
from mask_former.data.datasets.coco_stuff_10k import prepare_coco_stuff_10k
from mask_former.data.datasets.mapillary_vistas import prepare_mapillary_vistas
from mask_former.data.datasets.pascal_context import prepare_pascal_context
from mask_former.data.datasets.pascal_voc import prepare_pascal_voc
from mask_former.engine.errors import reported_errors

# Name on the command line -> function of the folder of all data sets; returns the data set's.
DATASETS: dict[str, Callable[..., Path]] = {
    "shapes": make_shapes,
    "ade20k": prepare_ade20k,
    "ade20k_panoptic": prepare_ade20k_panoptic,
    "ade20k_full": prepare_ade20k_full,
    "coco": prepare_coco,
    "coco_stuff_10k": prepare_coco_stuff_10k,
    "cityscapes": prepare_cityscapes,
    "mapillary_vistas": prepare_mapillary_vistas,
    "pascal_context": prepare_pascal_context,
    "pascal_voc": prepare_pascal_voc,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make or convert data sets.")
    parser.add_argument(
        "names", nargs="+", choices=DATASETS, metavar="NAME", help="of: %(choices)s"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root(),
        help="folder of all data sets; by default $DETECTRON2_DATASETS, or datasets: %(default)s",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="ade20k_full: the classes, one name a line in the order of their labels, for weights "
        "that were trained with another list than the one that is derived from the labels",
    )
    args = parser.parse_args(argv)
    if args.classes and args.names != ["ade20k_full"]:
        parser.error("--classes belongs to ade20k_full alone")
    options = {"classes_file": args.classes} if args.classes else {}
    with reported_errors():
        for name in args.names:
            print(f"{name}: {DATASETS[name](args.root, **options)}")


if __name__ == "__main__":
    main()
