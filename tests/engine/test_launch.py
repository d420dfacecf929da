import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from mask_former.engine import argument_parser, is_first_process, launch
from mask_former.engine.config import get_cfg


def cpu_cfg(folder):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def work(cfg, args):
    """Meets the others and leaves what it is in a file; then one fails while the other waits."""
    total = torch.ones(1)
    dist.all_reduce(total)
    rank = comm.get_rank()
    with open(os.path.join(cfg.OUTPUT_DIR, str(rank)), "w") as file:
        file.write(repr((rank, comm.get_local_rank(), comm.get_local_size(), int(total))))
    comm.synchronize()
    if rank == 1:
        raise RuntimeError("a bug")
    comm.synchronize()


def test_one_process_is_this_one(tmp_path):
    pids = []
    launch(lambda cfg, args: pids.append(os.getpid()), cpu_cfg(tmp_path), parse())
    assert pids == [os.getpid()]


def parse(*flags):
    return argument_parser().parse_args(flags)


def test_processes_work_together_and_end_together(tmp_path):
    with pytest.raises(Exception, match="a bug"):
        launch(work, cpu_cfg(tmp_path), parse("--num-gpus", "2"))
    assert not multiprocessing.active_children()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "0": "(0, 0, 2, 2)",
        "1": "(1, 1, 2, 2)",
    }


def test_several_machines_need_an_address(tmp_path):
    with pytest.raises(ValueError, match="--dist-url tcp://HOST:PORT"):
        launch(work, cpu_cfg(tmp_path), parse("--num-machines", "2"))


@pytest.mark.parametrize(
    "flags", [["--num-gpus", "0"], ["--num-gpus", "-1"], ["--machine-rank", "1"]], ids=" ".join
)
def test_a_run_without_a_process(tmp_path, flags):
    with pytest.raises(ValueError, match=" ".join(flags)):
        launch(work, cpu_cfg(tmp_path), parse(*flags))


def test_more_gpus_than_there_are(tmp_path):
    cfg = cpu_cfg(tmp_path)
    cfg.MODEL.DEVICE = "cuda"
    with pytest.raises(ValueError, match="--num-gpus 99"):
        launch(work, cfg, parse("--num-gpus", "99"))


def test_first_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_first_process(parse())
    assert not is_first_process(parse("--num-machines", "2", "--machine-rank", "1"))
    monkeypatch.setenv("RANK", "3")
    assert not is_first_process(parse())
    monkeypatch.setenv("RANK", "0")
    assert is_first_process(parse())
