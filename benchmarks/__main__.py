"""Run all benchmarks, one after the other, then put what they found into the document.

    python -m benchmarks [--device cuda]

Every option is passed on. The time to a panoptic quality is a command of its own:
`python -m benchmarks.quickstart`.
"""

import subprocess
import sys

COMMANDS = ["criterion", "training_step", "training_step --backbone swin", "swin"]
COMMANDS += ["postprocessing", "model_inference", "frames", "evaluation", "loading"]


def main() -> None:
    for command in COMMANDS:
        name, *options = command.split()
        arguments = [f"benchmarks.{name}", *options, *sys.argv[1:]]
        subprocess.run([sys.executable, "-m", *arguments], check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.report"], check=True)


if __name__ == "__main__":
    main()
