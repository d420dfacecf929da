"""`import mask_former` registers the components, and nothing else; imports lead one way."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

# Notes every file opened or folder listed and every connection while it imports, and reports.
# PyTorch comes first: what it opens is not ours, and noting all that it does takes long.
PROBE = """
import json, sys
import torch, torchvision

events = []
watched = {"open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"}
sys.addaudithook(lambda event, args: event in watched and events.append(f"{event} {args[0]}"))
import mask_former
seen = list(events)

from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from mask_former.pixel_decoder import PIXEL_DECODER_REGISTRY
from mask_former.predictor import PREDICTOR_REGISTRY

registries = {
    "architecture": META_ARCH_REGISTRY,
    "backbone": BACKBONE_REGISTRY,
    "head": SEM_SEG_HEADS_REGISTRY,
    "pixel decoder": PIXEL_DECODER_REGISTRY,
    "predictor": PREDICTOR_REGISTRY,
}
report = {
    "events": seen,
    "registered": {kind: [name for name, _ in registry] for kind, registry in registries.items()},
    "datasets": DatasetCatalog.list(),
    "gpu": torch.cuda.is_initialized(),
    "modules": list(sys.modules),
}
with open(sys.argv[1], "w") as file:
    json.dump(report, file)
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> dict:
    """What an import did, with the root of data sets at a folder that does not exist."""
    folder = tmp_path_factory.mktemp("import")
    root, report = folder / "no-datasets", folder / "report.json"
    done = run(PROBE, str(report), DETECTRON2_DATASETS=str(root))
    assert done.returncode == 0, done.stderr
    return {
        **json.loads(report.read_text()),
        "output": done.stdout + done.stderr,
        "root": root,
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("architecture", "MaskFormer"),
        ("backbone", "D2STDCnet"),
        ("backbone", "D2SwinTransformer"),
        ("backbone", "TimmBackbone"),
        ("backbone", "ViTEncoder"),
        ("backbone", "ViTPyramid"),
        ("head", "MaskFormerHead"),
        ("pixel decoder", "BasePixelDecoder"),
        ("pixel decoder", "PEM_Pixel_Decoder"),
        ("pixel decoder", "TransformerEncoderPixelDecoder"),
        ("predictor", "PrototypeTransformerDecoder"),
        ("predictor", "StandardPredictor"),
    ],
)
def test_registers_components(imported, kind, name):
    assert name in imported["registered"][kind]


@pytest.mark.parametrize("name", ["shapes_train_panoptic", "ade20k_sem_seg_val"])
def test_registers_data_sets(imported, name):
    assert name in imported["datasets"]


def test_prints_nothing(imported):
    assert imported["output"] == ""


def test_touches_no_dataset_and_no_network_and_no_gpu(imported):
    events = imported["events"]
    # The probe sees what it should: Python opens the package's own files.
    assert any("mask_former" in event for event in events)
    assert [event for event in events if event.startswith("socket")] == []
    assert [event for event in events if str(imported["root"]) in event] == []
    assert not imported["root"].exists()
    assert not imported["gpu"]


@pytest.mark.parametrize("name", ["timm", "scipy", "transformers", "matplotlib"])
def test_what_takes_long_to_import_is_imported_when_it_is_needed(imported, name):
    assert name not in imported["modules"]


def test_without_detectron2_one_sentence_names_the_command():
    # None in sys.modules makes Python treat a module as not installed.
    done = run("import sys; sys.modules['detectron2'] = None; import mask_former")
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: MaskFormer needs Detectron2")
    assert "`python tools/install_detectron2.py`" in message


def test_without_torchvision_one_sentence_names_the_command():
    code = "import importlib.util as u, sys; find = u.find_spec; "
    code += "u.find_spec = lambda name: None if name == 'torchvision' else find(name); "
    done = run(code + "import mask_former")
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: MaskFormer needs torchvision")
    assert "`pip install torch torchvision`" in message


PACKAGE = Path(__file__).parents[1] / "mask_former"


def imported_modules(file):
    """Names of the modules of the package that a file imports, such as ("engine", "config")."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mask_former"):
            module = node.module.split(".")[1:]
            yield from [tuple(module)] if module else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (tuple(name[1:]) for name in names if name[0] == "mask_former")


def names(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@pytest.mark.parametrize("depth", [1, None], ids=["rooms", "files"])
def test_imports_lead_one_way(depth):
    """No circle among the folders and files of the package's root, and none among all files."""
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        if file == PACKAGE / "__init__.py" or (depth is None and file.name == "__init__.py"):
            continue
        known = {name[:depth] for name in imported_modules(file)} - {names(file)[:depth]}
        graph.setdefault(names(file)[:depth], set()).update(known)
    assert len(graph) > 10 and ("matcher",) in graph[("criterion",)]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
