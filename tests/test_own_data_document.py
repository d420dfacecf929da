"""docs/OWN_DATA.md: its commands, run as they stand, on made-up files and with a tiny model."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import cv2
import yaml

from tests import forks
from tests.own_data import write_own_data

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/OWN_DATA.md").read_text(encoding="utf-8")
METRIC = {"semantic": "sem_seg/mIoU", "instances": "segm/AP", "panoptic": "panoptic_seg/PQ"}
RESULTS = {"semantic": "semantic", "instances": "instances.json", "panoptic": "panoptic.json"}
NUM_IMAGES = 8
# Instead of the document's model and its schedule.
TINY = {
    "_BASE_": str(ROOT / "configs/shapes/mask2former_panoptic.yaml"),
    "MODEL": {"MASK_FORMER": {"NUM_OBJECT_QUERIES": 5, "TRAIN_NUM_POINTS": 64}},
}
SHORT = "SOLVER.MAX_ITER 2 SOLVER.CHECKPOINT_PERIOD 2 TEST.EVAL_PERIOD 2 DATALOADER.NUM_WORKERS 0"


def commands(task: str) -> list[list[str]]:
    """The command lines of the document for a task."""
    blocks = re.findall(r"(?:<!-- (\w+) -->\n)?```sh\n(.*?)```", TEXT, re.DOTALL)
    return [
        shlex.split(code.replace("\\\n", "")) for of_task, code in blocks if of_task in ("", task)
    ]


def run(task: str) -> None:
    """Run all commands for a task, in this process and the working directory."""
    from demo import demo
    from mask_former.engine import train
    from tools import check_dataset, make_config, score

    mains = {
        "tools.make_config": make_config.main,
        "tools.check_dataset": check_dataset.main,
        "tools.score": score.main,
        "train_net.py": train.main,
        "demo/demo.py": demo.main,
    }
    for command in commands(task):
        assert command.pop(0) == "python"
        if command[0] == "-m":
            del command[0]
        name, *arguments = command
        if "--model" in arguments:
            arguments[arguments.index("--model") + 1] = "tiny.yaml"
        if name == "train_net.py" and "--eval-only" not in arguments:
            arguments += SHORT.split()
        result = mains[name](arguments)
        assert not (isinstance(result, int) and result), command


def run_python(task: str) -> None:
    """Run the document's example on one of the images."""
    shutil.copy(next(Path("mine/images").glob("*")), "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    exec(compile(code, "OWN_DATA.md", "exec"), names)
    assert {"leaf", "beetle"} <= set(names["names"])
    assert {"semantic": "sem_seg", "panoptic": "panoptic_seg"}.get(task, task) in names[
        "prediction"
    ]


def run_all(folder: str) -> None:
    """Run the commands for each task in a folder of its own."""
    for task in METRIC:
        os.chdir(Path(folder, task))
        run(task)
        run_python(task)


def test_the_commands(tmp_path):
    for task in METRIC:
        write_own_data(tmp_path / task / "mine", NUM_IMAGES)
        (tmp_path / task / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    # In a process of its own, as the commands change the process: data sets, loggers, directory.
    code, output = forks.run(tmp_path / "output", run_all, str(tmp_path))
    assert code == 0, output[-6000:]
    for task, metric in METRIC.items():
        check(tmp_path / task, task)
        assert metric.partition("/")[2] in output


def check(folder: Path, task: str) -> None:
    """What the commands have left in a folder."""
    report = json.loads((folder / "report.json").read_text())
    assert [part["num_images"] for part in report] == [NUM_IMAGES - 1, 1]
    assert [part["faults"] for part in report] == [[], []]
    classes = {"leaf", "beetle"} | ({"soil"} if task != "instances" else set())
    assert {entry["name"] for entry in report[0]["classes"]} == classes
    assert min(cv2.imread(str(folder / "sheet.png")).shape[:2]) > 400
    lines = (folder / "output/mine/metrics.json").read_text().splitlines()
    assert METRIC[task] in json.loads(lines[-1])
    assert (folder / "output/mine/model_best.pth").exists()
    assert len(list((folder / "pictures").glob("field_*.png"))) == NUM_IMAGES
    assert (folder / "pictures/results" / RESULTS[task]).exists()


def test_every_kind_of_command_is_there():
    found = {word for task in METRIC for command in commands(task) for word in command}
    assert {"tools.make_config", "tools.check_dataset", "tools.score"} <= found
    assert {"train_net.py", "demo/demo.py", "--eval-only"} <= found
    assert all(len(commands(task)) == 6 for task in METRIC)
