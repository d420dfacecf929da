"""From the command line: train, resume, evaluate, segment images with what was learned."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import demo
from mask_former import engine
from mask_former.engine.train import train
from tests.engine.tiny import restored_loggers

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/shapes/maskformer_panoptic_quickstart.yaml"
SMALL = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
}


def run(options, *flags):
    """What train_net.py does with its flags, in this process."""
    args = engine.argument_parser().parse_args(["--config-file", str(CONFIG), *flags, *options])
    cfg = engine.load_config(args.config_file, args.opts)
    with restored_loggers():
        engine.check_run(cfg, args)
        engine.launch(train, cfg, args)


def read_maps(folder):
    return {path.stem: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def trained(shapes_root, tmp_path_factory):
    """The folder and the options of a run that train_net.py has done."""
    output = tmp_path_factory.mktemp("end_to_end") / "run"
    options = [str(x) for pair in {**SMALL, "OUTPUT_DIR": output}.items() for x in pair]
    command = [sys.executable, "train_net.py", "--config-file", str(CONFIG), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "16 images" in done.stdout and "10 (6 things, 4 stuff)" in done.stdout
    return output, options


def test_from_training_to_pictures(trained, shapes_root, tmp_path):
    output, options = trained
    with pytest.raises(FileExistsError, match="--resume"):
        run(options)
    run([*options, "SOLVER.MAX_ITER", "3"], "--resume")
    lines = (output / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 2, 3]
    assert "panoptic_seg/PQ" in json.loads(lines[-1])

    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    run([*options, *weights], "--eval-only")
    flags = ["--config-file", CONFIG, "--input", shapes_root / "shapes/val", "--output", tmp_path]
    flags += ["--save-results", "--opts", *options, *weights]
    assert demo.main([str(flag) for flag in flags]) == 0

    # The demo shows what the evaluation judged.
    judged = read_maps(output / "inference/shapes_val_panoptic/panoptic")
    shown = read_maps(tmp_path / "results/panoptic")
    assert len(judged) == 8 and any(ids.any() for ids in judged.values())
    assert {name: ids.tolist() for name, ids in shown.items()} == {
        name: ids.tolist() for name, ids in judged.items()
    }
    assert len(list(tmp_path.glob("*.jpg"))) == 8
