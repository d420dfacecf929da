"""Which models have a counterpart in `transformers`, and which configuration."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerSwinConfig,
    ResNetConfig,
)

from mask_former.checkpoint.hugging_face import (
    config_from_hugging_face,
    config_to_hugging_face,
    processor_to_hugging_face,
)
from mask_former.engine import load_config
from tests.checkpoint.transformers_models import (
    STAGES,
    convert,
    make_theirs,
)
from tools import convert_weights

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("backbone", [MaskFormerSwinConfig(), ResNetConfig()], ids=["swin", "R50"])
def test_what_a_config_does_not_say_has_transformers_default(backbone):
    whole = MaskFormerConfig(backbone_config=backbone, decoder_config=DetrConfig()).to_dict()
    short = {"backbone_config": {"model_type": backbone.model_type}, "decoder_config": {}}
    assert config_from_hugging_face(short) == config_from_hugging_face(whole)


def test_published_recipes_that_transformers_has():
    cfg = load_config(str(CONFIGS / "ade20k-150/maskformer_R50_bs16_160k.yaml"))
    config = config_to_hugging_face(cfg)
    assert config["backbone_config"] == {
        "model_type": "resnet",
        "layer_type": "bottleneck",
        "depths": [3, 4, 6, 3],
        "hidden_sizes": [256, 512, 1024, 2048],
        "embedding_size": 64,
        "hidden_act": "relu",
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
        "num_channels": 3,
        "out_features": STAGES,
    }
    assert len(config["id2label"]) == 150 and config["mask_weight"] == 20.0
    processor = processor_to_hugging_face(cfg)
    assert processor["size"] == {"shortest_edge": 512, "longest_edge": 2048}
    keys = config_from_hugging_face(config, processor)
    trained = load_config(opts=[x for pair in keys.items() for x in pair])
    for name in ("PIXEL_MEAN", "PIXEL_STD", "BACKBONE", "RESNETS", "SEM_SEG_HEAD"):
        assert trained.MODEL[name] == cfg.MODEL[name], name

    # Projects res5, of which it has 768 channels, in any case; transformers does because of them.
    swin_file = CONFIGS / "coco-panoptic/swin/maskformer_panoptic_swin_tiny_bs64_554k.yaml"
    cfg = load_config(str(swin_file))
    assert cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ
    assert config_to_hugging_face(cfg)["backbone_config"]["window_size"] == 7
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 768
    with pytest.raises(ValueError, match="ENFORCE_INPUT_PROJ is True"):
        config_to_hugging_face(cfg)


def test_windows_that_transformers_has_not_are_refused():
    cfg = load_config(opts=["TEST.WINDOW.SIZE", 512])
    with pytest.raises(ValueError, match="TEST.WINDOW.SIZE is 512"):
        processor_to_hugging_face(cfg)


@pytest.mark.parametrize(("norm", "is_known"), [("GN", False), ("", False), ("SyncBN", True)])
def test_a_resnet_of_other_norms_is_refused(norm, is_known):
    recipe = CONFIGS / "ade20k-150/maskformer_R50_bs16_160k.yaml"
    cfg = load_config(str(recipe), ["MODEL.RESNETS.NORM", norm])
    with nullcontext() if is_known else pytest.raises(ValueError, match=f"NORM is '{norm}'"):
        config_to_hugging_face(cfg)


def test_the_image_processor_of_older_files():
    keys = config_from_hugging_face(
        {"backbone_config": {"model_type": "swin"}},
        {"size": 640, "max_size": 2560, "image_mean": [0.0, 0.5, 1.0], "image_std": [0.5] * 3},
    )
    assert (keys["INPUT.MIN_SIZE_TEST"], keys["INPUT.MAX_SIZE_TEST"]) == (640, 2560)
    assert keys["MODEL.PIXEL_MEAN"] == [0.0, 127.5, 255.0]
    assert keys["MODEL.PIXEL_STD"] == [127.5] * 3


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": {"shortest_edge": 512, "longest_edge": None}}, (512, 100000)),
        ({"size": {"shortest_edge": 512}}, (512, 100000)),
        ({"do_resize": False, "size": {"shortest_edge": 640, "longest_edge": 2560}}, (0, 2560)),
        ({"do_resize": False, "size": {"height": 384, "width": 384}}, (0, 1333)),
    ],
)
def test_how_the_image_processor_resizes(processor, expected, caplog):
    """0 is the size that the image has; null is no limit."""
    keys = config_from_hugging_face({"backbone_config": {"model_type": "swin"}}, processor)
    cfg = load_config(opts=[x for pair in keys.items() for x in pair])
    assert expected == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    assert "left out" not in caplog.text


def test_a_size_that_does_not_keep_the_shape_is_left_out_and_named(caplog):
    keys = config_from_hugging_face(
        {"backbone_config": {"model_type": "swin"}}, {"size": {"height": 384, "width": 256}}
    )
    assert not {"INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"} & keys.keys()
    assert "{'height': 384, 'width': 256} is left out" in caplog.text


@pytest.mark.parametrize(
    "section, key, value",
    [
        ("decoder_config", "activation_function", "gelu"),
        ("decoder_config", "auxiliary_loss", True),
        ("backbone_config", "use_absolute_embeddings", True),
        ("backbone_config", "layer_norm_eps", 1e-6),
        ("backbone_config", "model_type", "convnext"),
    ],
)
def test_a_model_that_we_cannot_have_is_named(tmp_path, section, key, value):
    folder, *_ = convert(make_theirs("swin, window 4"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config[section][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{folder}/config.json.*{section}.{key} is {value!r}"):
        convert_weights.main([str(folder), str(tmp_path / "new.pth")])
    assert not (tmp_path / "new.pth").exists()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"depths": [1, 2, 1, 1]}, "backbone_config.depths is .1, 2, 1, 1."),
        ({"hidden_sizes": [8, 16, 32, 48]}, "backbone_config.hidden_sizes is .8, 16, 32, 48."),
    ],
)
def test_a_resnet_that_we_cannot_have_is_named(tmp_path, change, text):
    folder, *_ = convert(make_theirs("resnet 50"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=text):
        convert_weights.main([str(folder), str(tmp_path / "new.pth")])


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "TransformerEncoderPixelDecoder"),
        ("MODEL.MASK_FORMER.PRE_NORM", True),
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res4"),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.SWIN.APE", True),
    ],
)
def test_a_model_that_transformers_cannot_have_is_named(tmp_path, key, value):
    _, weights, config_file = convert(make_theirs("swin, window 4"), tmp_path)
    arguments = ["--to", "hf", "--config-file", str(config_file), str(weights)]
    with pytest.raises(ValueError, match=f"{key} is {value!r}"):
        convert_weights.main([*arguments, str(tmp_path / "back"), key, str(value)])
    assert not (tmp_path / "back").exists()
