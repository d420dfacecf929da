"""Make or convert data sets: `python -m tools.prepare_datasets shapes [--root FOLDER]`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mask_former.data.datasets import datasets_root, make_shapes

# Name on the command line -> function of the folder of all data sets; returns what it made.
DATASETS: dict[str, Callable[[Path], Path]] = {
    "shapes": make_shapes,
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
    args = parser.parse_args(argv)
    for name in args.names:
        print(f"{name}: {DATASETS[name](args.root)}")


if __name__ == "__main__":
    main()
