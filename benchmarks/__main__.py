"""Run all benchmarks, one after the other, then put what they found into the page of results.

    python -m benchmarks [--device cuda]

Every option is passed on. Commands of their own: `benchmarks.baseline` (ours beside another
checkout), `benchmarks.gpu` (tests and benchmarks of a GPU in ten minutes), `benchmarks.comparison`
(the models' quality for the same time of training), `benchmarks.family` (images a second of all
models), `benchmarks.checks` (all checks before a training, on the size of COCO).
"""

import subprocess
import sys

COMMANDS = ["criterion", "training_step", "training_step --backbone swin", "swin"]
COMMANDS += [
    "training_step --model mask2former",
    "training_step --model mask2former --backbone swin",
]
COMMANDS += ["deformable_attention", "postprocessing", "model_inference"]
COMMANDS += ["model_inference --model mask2former", "evaluation", "loading"]


def main() -> None:
    for command in COMMANDS:
        name, *options = command.split()
        arguments = [f"benchmarks.{name}", *options, *sys.argv[1:]]
        subprocess.run([sys.executable, "-m", *arguments], check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.report"], check=True)


if __name__ == "__main__":
    main()
