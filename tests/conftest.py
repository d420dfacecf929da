"""What all tests share: their place on the machine, and one very small data set."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

# Read when PyTorch is imported. Tests run side by side; more threads would only compete.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when mask_former is imported. pytest-xdist's workers inherit the folder of the first process,
# which removes it when it exits.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _datasets = tempfile.TemporaryDirectory(prefix="mask-former-tests-")
    os.environ["DETECTRON2_DATASETS"] = _datasets.name

# A shell script's background jobs ignore Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The longest first: ten seconds or more each, where most files take one or two.
LONG = ("test_benchmarks", "test_interruption", "test_golden", "test_compile", "test_distributed")
LONG += ("test_end_to_end", "test_own_data_document", "test_mutated_annotations", "test_launch")
LONG += ("test_export_model", "test_resume", "test_cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start long tests first. pytest-xdist's worksteal gives every worker a share of the list, to
    run in this order, and what an idle worker takes over is the end of another one's share.

    Tests marked `gpu` are skipped where there is none."""
    import torch

    items.sort(key=lambda item: (*LONG, item.path.stem).index(item.path.stem))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def shapes_root() -> Path:
    """The root of data sets, where shapes_{train,val}_* have 16 and 8 images."""
    from mask_former.data.datasets import datasets_root, make_shapes

    root = datasets_root()
    with FileLock(root / "shapes.lock"):
        make_shapes(root, num_train=16, num_val=8, workers=1)
    return root


@pytest.fixture
def restored_catalog() -> Iterator[None]:
    """Data sets that a test registers are gone after it."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(
    scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], name="device"
)
def every_device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A CPU, and a GPU in float32, which is not what PyTorch means by that."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield request.param
    torch.backends.cudnn.allow_tf32 = before
