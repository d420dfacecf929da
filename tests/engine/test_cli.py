import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mask_former.data.agreement import known_classes
from mask_former.engine import Trainer, argument_parser, check_run, setup, train
from mask_former.engine.setup import check_device, check_output_folder
from mask_former.evaluation import PanopticEvaluator
from tests import forks
from tests.engine.tiny import restored_loggers, tiny_cfg

ROOT = Path(__file__).parents[2]


def train_net(*flags):
    return subprocess.run(
        [sys.executable, "train_net.py", *flags], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"TEST__EXPECTED_RESULTS": [["segm", "AP", 50]]}, "holds .*'segm', 'AP', 50.*, but an"),
        ({"OUTPUT_DIR": ""}, "OUTPUT_DIR is empty"),
        ({"MODEL__BACKBONE__NAME": "TinyBackbones"}, "MODEL.BACKBONE.NAME is 'TinyBackbones'"),
    ],
)
def test_what_would_go_wrong_late(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        check_run(tiny_cfg(tmp_path / "run", **options), argument_parser().parse_args([]))
    assert not list(tmp_path.iterdir())


def test_a_mistake_on_the_command_line_is_one_message(tmp_path):
    folder = tmp_path / "run"
    result = train_net("OUTPUT_DIR", str(folder), "SOLVER.BASE_LRR", "0.1")
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "SOLVER.BASE_LRR" in last and "SOLVER.BASE_LR." in last
    assert "Traceback" not in result.stderr
    assert not folder.exists()


def test_weights_that_are_missing_are_one_message_also_from_two_processes(shapes_root, tmp_path):
    cfg = tiny_cfg(
        tmp_path / "run", MODEL__BACKBONE__NAME="build_resnet_backbone", SOLVER__MAX_ITER=1
    )
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.WEIGHTS = str(tmp_path / "missing.pth")
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    flags = ["--config-file", str(tmp_path / "cfg.yaml"), "--num-gpus", "2"]
    code, output = forks.run(tmp_path / "output", train.main, flags)
    assert code == 2, output
    assert "missing.pth" in output and "Traceback" not in output


@pytest.mark.parametrize("name", ["last_checkpoint", "model_final.pth", "metrics.json"])
def test_other_run_in_the_output_folder(tmp_path, name):
    check_output_folder(str(tmp_path / "new"))
    (tmp_path / name).write_text("content")
    with pytest.raises(FileExistsError, match=f"{name}.*--resume.*another OUTPUT_DIR"):
        check_output_folder(str(tmp_path))


def test_an_output_folder_that_cannot_be_written(shapes_root, tmp_path, monkeypatch):
    args = argument_parser().parse_args([])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="OUTPUT_DIR .*file is not a folder"):
        check_run(tiny_cfg(tmp_path / "file" / "run"), args)
    # Root, who runs some tests, may write anywhere but on a read-only disk.
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(OSError, match=f"OUTPUT_DIR .*run: {tmp_path} cannot be written"):
        check_run(tiny_cfg(tmp_path / "new" / "run"), args)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_that_failed_at_its_start_can_be_started_again(shapes_root, tmp_path):
    """It has written its config and opened its metrics.json; there is nothing to lose."""
    cfg = tiny_cfg(tmp_path, MODEL__WEIGHTS=str(tmp_path / "missing.pth"))
    args = argument_parser().parse_args([])
    with restored_loggers():
        setup(cfg, args)
        with pytest.raises(FileNotFoundError):
            Trainer(cfg).resume_or_load(resume=False)
    assert (tmp_path / "metrics.json").exists()
    check_run(cfg, args)


@pytest.mark.parametrize("flag", ["--resume", "--eval-only"])
def test_other_run_in_the_output_folder_is_meant(shapes_root, tmp_path, flag):
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    check_run(tiny_cfg(tmp_path), argument_parser().parse_args([flag]))
    with pytest.raises(FileExistsError):
        check_run(tiny_cfg(tmp_path), argument_parser().parse_args([]))


def test_training_data_is_checked_for_a_training_only(shapes_root, tmp_path):
    cfg = tiny_cfg(tmp_path, DATASETS__TRAIN=("ade20k_sem_seg_train",))
    check_run(cfg, argument_parser().parse_args(["--eval-only"]))
    with pytest.raises(FileNotFoundError):
        check_run(cfg, argument_parser().parse_args([]))


def test_weights_of_other_classes_are_refused_before_anything_is_written(shapes_root, tmp_path):
    classes = known_classes(tiny_cfg(tmp_path), ["shapes_train_panoptic"])
    classes[3]["name"] = "comet"
    torch.save({"model": {"a.b": torch.zeros(1)}, "classes": classes}, tmp_path / "model.pth")
    (tmp_path / "last_checkpoint").write_text("model.pth")
    start = tiny_cfg(tmp_path / "run", MODEL__WEIGHTS=str(tmp_path / "model.pth"))
    message = "model.pth was .*: class 3 is 'comet' there and 'star' here"
    for cfg, flags in ((start, []), (start, ["--eval-only"]), (tiny_cfg(tmp_path), ["--resume"])):
        with pytest.raises(ValueError, match=message):
            check_run(cfg, argument_parser().parse_args(flags))
    start.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD = True
    check_run(start, argument_parser().parse_args([]))
    with pytest.raises(ValueError, match=message):
        check_run(start, argument_parser().parse_args(["--eval-only"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_gpu_that_is_not_there(tmp_path, monkeypatch, device):
    backend = torch.cuda if device == "cuda" else torch.backends.mps
    cfg = tiny_cfg(tmp_path)
    check_device(cfg)
    cfg.MODEL.DEVICE = device
    monkeypatch.setattr(backend, "is_available", lambda: True)
    check_device(cfg)
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"MODEL.DEVICE is {device}.*MODEL.DEVICE cpu"):
        check_device(cfg)


def test_a_device_that_there_is_none_of(tmp_path):
    with pytest.raises(ValueError, match="MODEL.DEVICE is 'gpu'.*cuda, mps or cpu"):
        check_device(tiny_cfg(tmp_path, MODEL__DEVICE="gpu"))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"SOLVER__CHECKPOINT_PERIOD": 0}, "SOLVER.CHECKPOINT_PERIOD is 0"),
        ({"SOLVER__MAX_ITER": 0}, "SOLVER.MAX_ITER is 0"),
        ({"SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER__STEPS": (3, 1)},
         r"STEPS is \[3, 1\].*larger than the one before"),
        ({"TEST__BEST_CHECKPOINT_METRIC": "segm/AP", "TEST__EVAL_PERIOD": 1},
         "BEST_CHECKPOINT_METRIC is 'segm/AP'.*panoptic_seg, sem_seg"),
        # With one test set there is no such prefix.
        ({"TEST__BEST_CHECKPOINT_METRIC": "shapes_val_panoptic/sem_seg/mIoU",
          "TEST__EVAL_PERIOD": 1}, "BEST_CHECKPOINT_METRIC is 'shapes_val"),
        ({"MODEL__EOMT__ANNEALING_END": [10, 10**6]}, r"ANNEALING_END is \[10, 1000000\].*Scale"),
        ({"MODEL__MASK_FORMER__TEST__SEMANTIC_ON": False,
          "MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False}, "shapes_val_panoptic.*PANOPTIC_ON True"),
    ],
)  # fmt: skip
def test_what_would_end_a_training_later(shapes_root, tmp_path, opts, message):
    with pytest.raises(ValueError, match=message):
        check_run(tiny_cfg(tmp_path, **opts), argument_parser().parse_args([]))


def test_an_evaluation_leaves_the_config_of_the_training(tmp_path):
    with restored_loggers():
        setup(tiny_cfg(tmp_path, SEED=1), argument_parser().parse_args([]))
        setup(tiny_cfg(tmp_path, SEED=2), argument_parser().parse_args(["--eval-only"]))
    assert "SEED: 1" in (tmp_path / "config.yaml").read_text()
    assert "Command line" in (tmp_path / "log.txt").read_text()


def test_seeds_differ_between_processes_only(tmp_path, monkeypatch):
    args = argument_parser().parse_args([])
    drawn = []
    for rank in (0, 0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        with restored_loggers():
            setup(tiny_cfg(tmp_path, SEED=5), args)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_may_be_a_mistake_is_logged(tmp_path, shapes_root, caplog):
    args = argument_parser().parse_args([])
    cfg = tiny_cfg(tmp_path, MODEL__MASK_FORMER__NUM_OBJECT_QUERIES=2)
    check_run(cfg, args)
    with caplog.at_level("WARNING"):
        setup(cfg, args)
    log = (tmp_path / "log.txt").read_text()
    assert "images have more segments than the model has queries" in log
    assert "NUM_OBJECT_QUERIES is 2" in log


def test_ground_truth_is_read_before_the_training(tmp_path, shapes_root, monkeypatch):
    read = []
    original = PanopticEvaluator.check_ground_truth
    monkeypatch.setattr(
        PanopticEvaluator, "check_ground_truth", lambda self: read.append(1) or original(self)
    )
    check_run(tiny_cfg(tmp_path), argument_parser().parse_args([]))
    assert read == [1]
