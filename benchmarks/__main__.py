"""Run all benchmarks, one after the other, then put what they found into the document.

    python -m benchmarks [--device cuda]

Every option is passed on. The time to a panoptic quality is a command of its own:
`python -m benchmarks.quickstart`.
"""

import subprocess
import sys

NAMES = ["criterion", "training_step", "swin", "postprocessing", "model_inference"]
NAMES += ["evaluation", "loading"]


def main() -> None:
    for name in NAMES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.report"], check=True)


if __name__ == "__main__":
    main()
