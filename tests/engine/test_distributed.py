import json
from pathlib import Path

import pytest
import torch

from mask_former.engine.step import share_buffers
from tests import forks
from tests.engine import tiny


def test_two_processes_train_like_one(shapes_root, tmp_path):
    """The same global batch, on one and on two processes: the same losses, to 1e-5 of their value,
    and the same weights, to 1e-5."""
    options = tiny.LIKE_ITS_PARTS | {"DATASETS__TEST": (), "SOLVER__MAX_ITER": 10}
    one = tiny.tiny_cfg(tmp_path / "one", **options)
    two = tiny.tiny_cfg(tmp_path / "two", **options)
    codes, output = tiny.run_in_two(two)
    assert codes == [0, 0], output
    expected = tiny.run_here(one)

    losses = tiny.read_record(two)["losses"]
    assert losses.keys() == expected["losses"].keys()
    for iteration, loss in expected["losses"].items():
        assert losses[iteration] == pytest.approx(loss, rel=1e-5), iteration
    ours, theirs = (
        torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)["model"]
        for cfg in (two, one)
    )
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-5)


def test_two_processes_evaluate_like_one(shapes_root, tmp_path):
    """Exactly the same metrics, here with processes that torchrun started."""
    weights = tmp_path / "weights.pth"
    torch.save({"model": {"shift": torch.tensor(6.0)}}, weights)
    one, two = (
        tiny.tiny_cfg(
            tmp_path / name,
            MODEL__META_ARCHITECTURE="ShiftedTruth",
            MODEL__MASK_FORMER__TEST__INSTANCE_ON=True,
            MODEL__WEIGHTS=str(weights),
        )
        for name in ("one", "two")
    )
    process = tiny.start(two, "--eval-only", torchrun=["--nproc_per_node", "2"])
    expected = tiny.run_here(one, "--eval-only")["metrics"]
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    for task, metric in (("panoptic_seg", "PQ"), ("sem_seg", "mIoU"), ("segm", "AP")):
        assert 0 < expected[task][metric] < 100
    # As text, since a class without ground truth is nan, which equals nothing.
    assert json.dumps(tiny.read_record(two)["metrics"]) == json.dumps(expected)


def _share(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )
    norm = torch.nn.BatchNorm1d(3)
    norm.running_mean.fill_(rank + 5.0)
    share_buffers(norm)
    torch.save(norm.running_mean, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_an_evaluation_has_the_statistics_that_a_checkpoint_holds(tmp_path):
    for process in [forks.start(tmp_path / "output", _share, i, tmp_path) for i in range(2)]:
        process.join()
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == [5.0] * 3
