"""Every config key that the package adds is read, and the general ones for every model."""

import ast
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from mask_former.config import add_mask_former_config
from tests.engine import tiny

PACKAGE = Path(__file__).parents[1] / "mask_former"


def leaves(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def added_keys():
    theirs, ours = get_cfg(), get_cfg()
    add_deeplab_config(theirs)
    add_mask_former_config(ours)
    return sorted(set(leaves(ours)) - set(leaves(theirs)))


def chains(tree):
    """The attribute chains that a module reads, such as "cfg.SOLVER.OPTIMIZER", with local names
    of a section (`solver = cfg.SOLVER`) written out."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        names = dict(assignments(function))
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield written_out(node, names)


def assignments(function):
    """(name, value) of every `name = value`, also of several at once."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=True)
            yield from ((t.id, v) for t, v in pairs if isinstance(t, ast.Name))


def written_out(node, names):
    if isinstance(node, ast.Attribute):
        return f"{written_out(node.value, names)}.{node.attr}"
    if isinstance(node, ast.Name) and node.id in names:
        others = {name: value for name, value in names.items() if name != node.id}
        return written_out(names[node.id], others)
    return node.id if isinstance(node, ast.Name) else "?"


@pytest.fixture(scope="module")
def read():
    defaults = list(PACKAGE.glob("config*.py"))
    files = [file for file in PACKAGE.rglob("*.py") if file not in defaults]
    return {chain for file in files for chain in chains(ast.parse(file.read_text()))}


def test_a_local_name_of_a_section_is_followed():
    code = """
def f(cfg):
    head, width = cfg.MODEL.HEAD, cfg.WIDTH
    test = head.TEST
    test.OFF = width
    return test.ON
"""
    found = set(chains(ast.parse(code)))
    assert {"cfg.MODEL.HEAD.TEST.ON", "cfg.WIDTH"} <= found
    assert "cfg.MODEL.HEAD.TEST.OFF" not in found  # written, not read


@pytest.mark.parametrize("key", added_keys())
def test_key_is_read(key, read):
    assert any(chain.endswith(f"cfg.{key}") for chain in read)


HEADS = {
    "MaskFormer": {"MODEL__SEM_SEG_HEAD__NAME": "MaskFormerHead"},
    "SemanticSegmentor": {"MODEL__SEM_SEG_HEAD__NAME": "PerPixelBaselineHead"},
    "EoMT": {
        "MODEL__SEM_SEG_HEAD__NAME": "EoMTHead",
        "MODEL__BACKBONE__NAME": "ViTEncoder",
        "MODEL__VIT__NAME": "test_vit",  # timm's smallest
    },
}
# Of components that a model or an augmentation may have or not; all other keys are for every model.
COMPONENTS = ("MODEL.MASK_FORMER.", "MODEL.SEM_SEG_HEAD.", "MODEL.SWIN.")
COMPONENTS += ("MODEL.EOMT.", "MODEL.SEGMENTER.", "MODEL.STDC.", "MODEL.TIMM.", "MODEL.VIT.")
COMPONENTS += ("TEST.AUG.", "TEST.COUNT.")
COMPONENTS += ("INPUT.IMAGE_SIZE", "INPUT.MIN_SCALE", "INPUT.MAX_SCALE")  # large-scale jitter


@pytest.mark.parametrize("architecture", HEADS)
def test_what_no_component_owns_is_read_with_every_architecture(
    architecture, shapes_root, tmp_path, monkeypatch
):
    cfg = tiny.tiny_cfg(
        tmp_path,
        MODEL__META_ARCHITECTURE=architecture,
        **HEADS[architecture],
        MODEL__MASK_FORMER__TEST__PANOPTIC_ON=False,
        INPUT__DATASET_MAPPER_NAME="mask_former_semantic",
        INPUT__SIZE_DIVISIBILITY=32,
        DATASETS__TRAIN=("shapes_train_semantic",),
        DATASETS__TEST=("shapes_val_semantic",),
        SOLVER__MAX_ITER=1,
        SOLVER__AMP__ENABLED=True,
    )
    read = set()
    sections = {id(cfg): ""}
    for key in leaves(cfg):
        section, names = cfg, key.split(".")[:-1]
        for i, name in enumerate(names):
            section = section[name]
            sections[id(section)] = ".".join(names[: i + 1]) + "."

    def getattr_and_note(self, name):
        if name not in self:
            raise AttributeError(name)
        read.add(sections.get(id(self), "?") + name)
        return self[name]

    with monkeypatch.context() as patch:
        patch.setattr(CfgNode, "__getattr__", getattr_and_note)
        tiny.run_here(cfg)
    general = {key for key in added_keys() if not key.startswith(COMPONENTS)}
    assert {"MODEL.COMPILE", "MODEL.TF32", "SOLVER.AMP.DTYPE"} <= general
    assert general - read == set()
