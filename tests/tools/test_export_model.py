"""Exported networks give what the models give; and what cannot be exported is said."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from mask_former import inference
from mask_former.engine import build_model
from mask_former.errors import UserError
from tests.backbone.training import MASK2FORMER
from tests.engine.test_pem import PEM
from tests.engine.tiny import tiny_cfg
from tools import export_model

ROOT = Path(__file__).parents[2]
VIT = {"MODEL__BACKBONE__NAME": "ViTEncoder", "MODEL__VIT__NAME": "test_vit"}
VIT |= {"MODEL__VIT__IMG_SIZE": 64}
MODELS = {
    "maskformer": {},
    "swin": {
        "MODEL__BACKBONE__NAME": "D2SwinTransformer",
        "MODEL__SWIN__EMBED_DIM": 8,
        "MODEL__SWIN__NUM_HEADS": [1, 1, 2, 2],
        "MODEL__SWIN__WINDOW_SIZE": 4,  # which divides the first maps, but not the last
    },
    "mask2former": MASK2FORMER,
    "pem": PEM,
    "eomt": {
        **VIT,
        "MODEL__META_ARCHITECTURE": "EoMT",
        "MODEL__SEM_SEG_HEAD__NAME": "EoMTHead",
        "MODEL__EOMT__NUM_BLOCKS": 2,
        "MODEL__EOMT__ANNEALING_START": [0, 0],
        "MODEL__EOMT__ANNEALING_END": [1, 1],
    },
    "segmenter": {
        **VIT,
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__SEM_SEG_HEAD__NAME": "SegmenterHead",
    },
    "per-pixel": {
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__SEM_SEG_HEAD__NAME": "PerPixelBaselineHead",
    },
}
SIZE = (64, 96)


def trained(tmp_path, **options):
    """A config with weights, which are random."""
    cfg = tiny_cfg(tmp_path, **options)
    torch.manual_seed(0)
    file = tmp_path / "model.pth"
    torch.save({"model": build_model(cfg).state_dict()}, file)
    cfg.MODEL.WEIGHTS = str(file)
    return cfg


def run(cfg, file, size=SIZE):
    config = Path(cfg.OUTPUT_DIR) / "config.yaml"
    config.write_text(cfg.dump())
    arguments = ["--config-file", config, "--input-size", *size, file]
    export_model.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", MODELS)
def test_every_member_of_the_family(name, tmp_path, capsys):
    cfg = trained(tmp_path, **MODELS[name])
    size = (64, 64) if name == "eomt" else SIZE
    file = tmp_path / "out" / "model.pt2"
    run(cfg, file, size)
    printed = capsys.readouterr().out
    graph = torch.export.load(file).module()
    # Nothing else than the model: its own inference, from bytes to scores.
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(cfg.MODEL.WEIGHTS)["model"])
    with torch.no_grad():
        expected = model([{"image": image}])[0]["sem_seg"]
        outputs = graph(image[None].float())
    if name in ("segmenter", "per-pixel"):
        (found,) = outputs
        found = found[0]
        assert "-> sem_seg; " in printed
    else:
        classes, masks = outputs
        masks = inference.scale_masks(masks[0], inference.Sizes(size, size, size))
        found = inference.semantic_inference(classes[0], masks)
        assert "-> class_logits, mask_logits; " in printed
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["swin", "mask2former", "pem"])
def test_onnx(name, tmp_path, capsys):
    """Windows, deformable attention and convolutions; the tool compares the outputs."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"ONNX needs {package}, of the extra [onnx]")
    cfg = trained(tmp_path, **MODELS[name])
    run(cfg, tmp_path / "model.onnx")
    assert re.search(r"differs from the model by \de-0[5-9]", capsys.readouterr().out)
    assert not (tmp_path / "model.onnx.data").exists()


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    cfg = trained(tmp_path)
    wrong = lambda network, images, file: lambda x: [2 * y for y in network(x)]  # noqa: E731
    monkeypatch.setitem(export_model.WRITERS, ".pt2", wrong)
    with pytest.raises(UserError, match="model.pt2 is written, but differs .* by 1.0e"):
        run(cfg, tmp_path / "model.pt2")


def test_an_output_that_is_not_finite_is_refused(tmp_path, monkeypatch):
    """Also if it is not the first one."""

    def broken(network, images, file):
        return lambda x: [network(x)[0], torch.full_like(network(x)[1], torch.nan)]

    cfg = trained(tmp_path)
    monkeypatch.setitem(export_model.WRITERS, ".pt2", broken)
    with pytest.raises(UserError, match="model.pt2 is written, but differs .* by nan"):
        run(cfg, tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("name", "size", "file", "message"),
    [
        ("maskformer", (50, 96), "a.pt2", "is 50 96, .* pads such images to 64 96"),
        ("maskformer", (0, 96), "a.pt2", "is 0 96, .* pads such images to 32 96"),
        ("eomt", (64, 96), "a.pt2", "is 64 96, .* pads such images to 64 128"),
        ("maskformer", SIZE, "a.pb", "a.pb: networks are exported to files named .onnx, .pt2"),
        ("maskformer", SIZE, "model.pth/a.pt2", "a.pt2 cannot be written: .*is not a folder"),
    ],
)
def test_what_cannot_be_exported(name, size, file, message, tmp_path):
    options = dict(MODELS[name])
    if name == "eomt":
        options["MODEL__MASK_FORMER__SIZE_DIVISIBILITY"] = 64
    cfg = trained(tmp_path, **options)
    with pytest.raises(UserError, match=message):
        run(cfg, tmp_path / file, size)


def test_without_weights(tmp_path):
    with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
        run(tiny_cfg(tmp_path), tmp_path / "a.pt2")


@META_ARCH_REGISTRY.register()
class OfAnotherProject(torch.nn.Linear):
    def __init__(self, cfg):
        super().__init__(1, 1)


def test_another_meta_architecture(tmp_path):
    cfg = tiny_cfg(tmp_path, MODEL__META_ARCHITECTURE="OfAnotherProject", MODEL__WEIGHTS="a.pth")
    with pytest.raises(UserError, match="'OfAnotherProject'; exported are MaskFormer and"):
        run(cfg, tmp_path / "a.pt2")


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs the package onnxruntime.*\[onnx\]"):
        run(trained(tmp_path), tmp_path / "a.onnx")


def test_the_documents_semantic_segmentation():
    text = (ROOT / "docs/EXPORT.md").read_text()
    (code,) = re.findall(r"<!-- tested by .*? -->\n```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(code, "EXPORT.md", "exec"), names)
    classes, masks = torch.randn(1, 7, 4), 3 * torch.randn(1, 7, 5, 6)
    found = names["semantic_segmentation"](classes.numpy(), masks.numpy())
    expected = inference.semantic_inference(classes[0], masks[0]).argmax(0)
    assert found.tolist() == expected.tolist()
