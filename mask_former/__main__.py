"""The commands of an installed package: `mask-former COMMAND ...`, or `python -m mask_former`.

Each is a script of the checkout, whose folders `tools` and `demo` a wheel has inside the package.
"""

import importlib
import sys

from mask_former.engine import reported_errors

COMMANDS = {
    "config": ("mask_former.tools.make_config", "write a config for images and their labels"),
    "check": ("mask_former.tools.check_dataset", "read all files of data sets, and report faults"),
    "train": ("mask_former.engine.train", "train or evaluate a model"),
    "predict": ("mask_former.demo.demo", "segment images, videos and what a camera sees"),
    "score": ("mask_former.tools.score", "score saved predictions, without a model"),
    "export": ("mask_former.tools.export_model", "export a network as a graph, to ONNX"),
    "convert": ("mask_former.tools.convert_weights", "convert weights of other code bases"),
}


def main() -> None:
    """Run the command that the first argument names, with the others."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in COMMANDS:
        commands = "".join(f"\n  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
        print(
            f"usage: mask-former COMMAND ...\n{commands}\n\n`mask-former COMMAND --help` says more."
        )
        sys.exit(0 if name in ("-h", "--help") else 2)
    sys.argv[0] = f"mask-former {name}"
    with reported_errors():
        result = importlib.import_module(COMMANDS[name][0]).main(arguments)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
