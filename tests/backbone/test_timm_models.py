"""timm's weights and statistics: from its cache, and checked against the config."""

import sys

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from mask_former.engine import build_model
from mask_former.errors import DownloadError, UserError
from tests.engine.tiny import tiny_cfg

NAME = "mobilenetv3_small_050.lamb_in1k"


def timm_cfg(**options):
    values = {"MODEL__BACKBONE__NAME": "TimmBackbone", "MODEL__BACKBONE__FREEZE_AT": 0}
    values |= {"MODEL__TIMM__NAME": NAME, "MODEL__TIMM__PRETRAINED": True}
    values |= {"MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53]}
    values |= {"MODEL__PIXEL_STD": [58.395, 57.12, 57.375], "INPUT__FORMAT": "RGB"}
    return tiny_cfg("unused", **{**values, **options})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_pretrained_weights_come_from_timms_cache(cache):
    classifier = timm.create_model(NAME)
    folder = cache / f"models--timm--{NAME}"
    (folder / "snapshots/1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("1")
    save_file(classifier.state_dict(), folder / "snapshots/1/model.safetensors")
    found = build_model(timm_cfg()).backbone.model.state_dict()
    expected = classifier.state_dict()
    assert len(found) > 200
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_without_a_network():
    with pytest.raises(DownloadError, match="lamb_in1k.*MODEL.WEIGHTS"):
        build_model(timm_cfg())
    # Weights of a file take their place, so they need not be there.
    build_model(timm_cfg(MODEL__WEIGHTS="model_final.pth"))


BLUE_FIRST = r"PIXEL_MEAN \[103.53, 116.28, 123.675\] .*PIXEL_STD \[57.375, 57.12, 58.395\]"


def test_statistics_of_the_weights(caplog):
    with pytest.raises(UserError, match=BLUE_FIRST + ".*FORMAT BGR"):
        build_model(timm_cfg(INPUT__FORMAT="BGR"))
    with pytest.raises(UserError, match=r"127.5, 127.5, 127.5"):
        build_model(timm_cfg(MODEL__TIMM__NAME="resnetv2_18.ra4_e3600_r224_in1k"))
    assert not caplog.records
    file = {"MODEL__WEIGHTS": "a.safetensors", "MODEL__TIMM__PRETRAINED": False}
    build_model(timm_cfg(**file))
    assert not caplog.records
    build_model(timm_cfg(**file, INPUT__FORMAT="BGR"))
    assert "Change that if a.safetensors comes from timm" in caplog.text


def test_from_random_weights_any_statistics_will_do(caplog):
    build_model(timm_cfg(MODEL__TIMM__PRETRAINED=False, MODEL__PIXEL_MEAN=[0.0, 0.0, 0.0]))
    assert not caplog.records


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install '\.\[timm\]'"):
        build_model(timm_cfg())
