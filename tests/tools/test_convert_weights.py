"""Conversion against the other code bases themselves: same outputs there and back, bit for bit."""

import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import yaml
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import nn
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    MaskFormerSwinConfig,
    ResNetConfig,
    SwinConfig,
)

from mask_former.backbone.swin import D2SwinTransformer
from mask_former.checkpoint import find_source, to_ours
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.hugging_face_config import (
    config_from_hugging_face,
    config_to_hugging_face,
    processor_to_hugging_face,
)
from mask_former.checkpoint.read import read_weights_file
from mask_former.engine import get_cfg, load_config
from tools import convert_weights

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def swin(**options):
    options = {"embed_dim": 8, "depths": [1, 2, 1, 2], "num_heads": [1, 2, 2, 4], **options}
    return SwinConfig(image_size=32, out_features=STAGES, **options)


def resnet(width=8, blocks=(3, 4, 6, 3), kind="bottleneck", **options):
    return ResNetConfig(
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=list(blocks),
        layer_type=kind,
        out_features=STAGES,
        **options,
    )


# name -> backbone, decoder, other options, number of labels, batches that its norms have seen
SHAPES = {
    "swin, window 4": (swin(window_size=4), {}, {}, 3, 0),
    "swin, window 3, no qkv bias": (
        swin(window_size=3, embed_dim=4, depths=[2, 1, 1, 1], num_heads=[1] * 4, qkv_bias=False),
        {"d_model": 16, "decoder_layers": 1, "num_queries": 9, "decoder_attention_heads": 2},
        {"fpn_feature_size": 64, "mask_feature_size": 24, "no_object_weight": 0.4},
        11,
        0,
    ),
    # res5 has the decoder's width: no projection.
    "swin, unprojected": (swin(window_size=2, embed_dim=4), {"d_model": 32}, {}, 4, 0),
    "resnet 50": (resnet(embedding_size=6), {"decoder_layers": 3}, {}, 5, 0),
    "resnet 50, stride in 1x1": (resnet(downsample_in_bottleneck=True), {}, {}, 2, 7),
    "resnet 18": (resnet(64, (2, 2, 2, 2), "basic"), {}, {}, 3, 7),
}


def make_theirs(shape):
    """A model of transformers whose every weight matters."""
    torch.manual_seed(0)
    backbone, decoder, options, num_labels, counted = SHAPES[shape]
    decoder = {
        "d_model": 16,
        "decoder_layers": 2,
        "num_queries": 7,
        "decoder_ffn_dim": 24,
        **decoder,
    }
    decoder = {"decoder_attention_heads": 4, "encoder_attention_heads": 4, **decoder}
    options = {"fpn_feature_size": 32, "mask_feature_size": 16, **options}
    model = MaskFormerForInstanceSegmentation(
        MaskFormerConfig(
            backbone_config=backbone,
            decoder_config=DetrConfig(**decoder),
            num_labels=num_labels,
            **options,
        )
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(counted)
            elif tensor.is_floating_point() and "criterion" not in name:
                is_scale = tensor.ndim == 1 and name.endswith(("weight", "running_var"))
                if is_scale and ".model.layernorm." not in name:  # which nothing uses
                    tensor.uniform_(0.5, 1.5)
                elif tensor.ndim == 1 and ".model.layernorm." not in name:
                    tensor.normal_(std=0.1)
                elif "relative_position_bias_table" in name or "queries_embedder" in name:
                    tensor.normal_()
                elif "transformer_module.decoder" in name:
                    tensor.normal_()  # attention that differs from query to query
        tell_apart(model.eval())
    return model


def tell_apart(model):
    """Let queries differ in class and mask, as those of trained models do."""
    model.mask_embedder.get_submodule("2.0").weight.mul_(8)
    outputs = model(torch.randn(1, 3, 96, 160))
    model.class_predictor.bias.sub_(outputs.class_queries_logits.mean((0, 1)))
    embeddings = outputs.pixel_decoder_last_hidden_state
    model.model.pixel_level_module.decoder.mask_projection.bias.sub_(embeddings.mean((0, 2, 3)))


@pytest.fixture
def convert(tmp_path):
    """Saves a model of transformers and converts it; returns folder, weights and config."""

    def convert(theirs):
        theirs.save_pretrained(tmp_path / "theirs")
        convert_weights.main([str(tmp_path / "theirs"), str(tmp_path / "ours.pth")])
        return tmp_path / "theirs", tmp_path / "ours.pth", tmp_path / "ours.yaml"

    return convert


def build_ours(config_file):
    """The model of a config file, with its weights."""
    cfg = load_config(str(config_file), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    MaskFormerCheckpointer(model, accept_backbone=False).load(cfg.MODEL.WEIGHTS)
    return model.eval()


def assert_same_files(a, b):
    a, b = read_weights_file(str(a))["model"], read_weights_file(str(b))["model"]
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


# transformers


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_outputs_as_transformers(convert, shape):
    theirs = make_theirs(shape)
    *_, config_file = convert(theirs)
    ours = build_ours(config_file)
    # No multiple of the windows at any stage.
    image = torch.randint(0, 256, (3, 96, 160), dtype=torch.uint8)
    pixels = ours.preprocess([{"image": image}]).tensor
    expected = theirs(pixels)
    prediction = ours.sem_seg_head(ours.backbone(pixels))[-1]
    assert expected.masks_queries_logits.std() > 0.1
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(prediction.class_logits, expected.class_queries_logits, **close)
    torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits, **close)

    # Theirs scales probabilities from a quarter of the resolution, the paper's code logits.
    expected.masks_queries_logits = F.interpolate(
        expected.masks_queries_logits, size=(96, 160), mode="bilinear"
    )
    processor = MaskFormerImageProcessor()
    ours.panoptic_on, ours.resize_before_semantic = True, True
    ours.thing_classes, ours.overlap_threshold = frozenset([0, 2]), 0.3
    result = ours([{"image": image}])[0]

    scores = processor.post_process_semantic_segmentation(
        expected, return_segmentation_scores=True
    )[0].segmentation_scores
    torch.testing.assert_close(result["sem_seg"], scores, **close)

    # Sure of the classes, since theirs measures a mask where score times probability is 0.5; and
    # unfused, since theirs gives a new segment an old id after a fused one.
    expected.class_queries_logits *= 1e5
    for parameter in ours.sem_seg_head.predictor.class_embed.parameters():
        parameter.mul_(1e5)
    result = ours([{"image": image}])[0]
    merged = processor.post_process_panoptic_segmentation(
        expected, threshold=0.0, overlap_mask_area_threshold=0.3, label_ids_to_fuse=set()
    )[0]
    labels = {segment["id"]: segment["label_id"] for segment in merged["segments_info"]}
    segment_map, segments = result["panoptic_seg"]
    classes = {segment["id"]: segment["category_id"] for segment in segments}
    assert labels and set(labels.values()) == set(classes.values())
    maps = torch.stack((segment_map, merged["segmentation"]), -1).flatten(0, 1)
    maps, pixels = maps.unique(dim=0, return_counts=True)
    # Where two masks are as sure as float32 can be, rounding decides: a thousandth of the pixels.
    pairs = {tuple(pair) for pair in maps[pixels > 0.001 * pixels.sum()].tolist()}
    for mine, their in pairs:
        assert classes.get(mine) == labels.get(their)
    things = [pair for pair in pairs if classes.get(pair[0]) in ours.thing_classes]
    assert len({mine for mine, _ in things}) == len({their for _, their in things}) == len(things)
    assert len(classes) - len(things) == len(set(classes.values()) - ours.thing_classes)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_and_there_again(convert, tmp_path, shape):
    folder, weights, config_file = convert(make_theirs(shape))
    back = tmp_path / "back"
    convert_weights.main(["--to", "hf", "--config-file", str(config_file), str(weights), str(back)])
    assert_same_files(folder / "model.safetensors", back / "model.safetensors")
    before = json.loads((folder / "config.json").read_text())
    after = json.loads((back / "config.json").read_text())
    before.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    for key in ("id2label", "fpn_feature_size", "mask_feature_size", "model_type"):
        assert after[key] == before[key]
    for section in ("backbone_config", "decoder_config"):
        own = {k: v for k, v in after[section].items() if "_dropout" not in k}
        assert own == {key: before[section][key] for key in own}
    again = tmp_path / "again.pth"
    convert_weights.main([str(back), str(again)])
    assert_same_files(weights, again)
    old, new = (
        yaml.safe_load(config_file.read_text()),
        yaml.safe_load(again.with_suffix(".yaml").read_text()),
    )
    assert new.pop("INPUT") == {"FORMAT": "RGB", "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333}
    assert old.pop("INPUT") == {"FORMAT": "RGB"}
    del old["MODEL"]["WEIGHTS"], new["MODEL"]["WEIGHTS"]
    assert new == old
    counted = SHAPES[shape][-1]
    norm = None if "swin" in shape else "BN" if counted else "FrozenBN"
    assert new["MODEL"].get("RESNETS", {}).get("NORM") == norm


OURS = {
    "R50": ["MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8]
    + ["MODEL.RESNETS.WIDTH_PER_GROUP", 2, "MODEL.RESNETS.STRIDE_IN_1X1", False],
    "swin": ["MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 4]
    + ["MODEL.SWIN.NUM_HEADS", [1, 1, 1, 1], "MODEL.SWIN.DEPTHS", [1, 1, 2, 1]],
}
SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "MaskFormer", "INPUT.FORMAT", "RGB"],
    *["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead", "MODEL.SEM_SEG_HEAD.NORM", "GN"],
    *["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.MASK_DIM", 16],
    *["MODEL.MASK_FORMER.HIDDEN_DIM", 16, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 16],
    *["MODEL.MASK_FORMER.DEC_LAYERS", 1, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 6],
    *["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 10, "DATASETS.TEST", ("shapes_val_panoptic",)],
    *["MODEL.PIXEL_MEAN", [100.0, 110.0, 120.0], "MODEL.PIXEL_STD", [50.0, 60.0, 70.0]],
]


@torch.no_grad()
@pytest.mark.parametrize("backbone", OURS)
def test_transformers_runs_ours(tmp_path, backbone, capsys):
    classes = MetadataCatalog.get("shapes_val_panoptic").stuff_classes
    cfg = load_config(
        opts=[*SMALL, *OURS[backbone], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", len(classes)]
    )
    torch.manual_seed(0)
    ours = build_model(cfg).eval()
    # As published: pickled arrays, in the older layout.
    weights = {
        name.replace(".pixel_decoder.", "."): tensor.numpy()
        for name, tensor in ours.state_dict().items()
    }
    (tmp_path / "ours.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "x"}))
    (tmp_path / "ours.yaml").write_text(cfg.dump())
    arguments = [str(tmp_path / "ours.pkl"), str(tmp_path / "theirs")]
    convert_weights.main(["--to", "hf", "--config-file", str(tmp_path / "ours.yaml"), *arguments])
    assert f"{len(weights)} of our tensors" in capsys.readouterr().out

    theirs, info = MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path / "theirs", output_loading_info=True
    )
    assert not any(info.values()), info
    assert [theirs.config.id2label[i] for i in range(len(classes))] == list(classes)
    processor = MaskFormerImageProcessor.from_pretrained(tmp_path / "theirs")
    assert processor.size == {"shortest_edge": 800, "longest_edge": 1333}
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    pixels = processor(image, do_resize=False, return_tensors="pt")["pixel_values"]
    expected = ours.preprocess([{"image": image}]).tensor
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
    prediction = ours.sem_seg_head(ours.backbone(expected))[-1]
    outputs = theirs.eval()(expected)
    torch.testing.assert_close(
        outputs.masks_queries_logits, prediction.mask_logits, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        outputs.class_queries_logits, prediction.class_logits, atol=1e-4, rtol=1e-4
    )

    # And back, without a difference.
    convert_weights.main([str(tmp_path / "theirs"), str(tmp_path / "back.safetensors")])
    back = read_weights_file(str(tmp_path / "back.safetensors"))["model"]
    assert back.keys() == ours.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back[name], tensor), name


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


def test_the_image_processor_of_older_files():
    keys = config_from_hugging_face(
        {"backbone_config": {"model_type": "swin"}},
        {"size": 640, "max_size": 2560, "image_mean": [0.0, 0.5, 1.0], "image_std": [0.5] * 3},
    )
    assert (keys["INPUT.MIN_SIZE_TEST"], keys["INPUT.MAX_SIZE_TEST"]) == (640, 2560)
    assert keys["MODEL.PIXEL_MEAN"] == [0.0, 127.5, 255.0]
    assert keys["MODEL.PIXEL_STD"] == [127.5] * 3


def test_names_of_a_model_in_memory(convert):
    """transformers 5 renames what it reads; its state_dict is not what its files hold."""
    theirs = make_theirs("swin, window 4")
    _, file, _ = convert(theirs)
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert any(".o_proj." in name for name in weights)
    converted = to_ours(weights, "hf").weights
    expected = read_weights_file(str(file))["model"]
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_a_checkpoint_of_transformers_is_loaded_as_it_is(convert):
    folder, _, config_file = convert(make_theirs("resnet 50"))
    converted = build_ours(config_file)
    direct = build_model(load_config(str(config_file), ["MODEL.DEVICE", "cpu"]))
    checkpointer = MaskFormerCheckpointer(direct, accept_backbone=False)
    checkpointer.load(str(folder / "model.safetensors"))
    for name, tensor in converted.state_dict().items():
        assert torch.equal(direct.state_dict()[name], tensor), name


# Backbones of ImageNet


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = nn.Linear(1, 1)


def resnet_of_detectron2(depth):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def randomize_norms(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.7)
            module.bias.data.normal_(std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(3)
    return model.eval()


def stages_of_resnet(model, x):
    outputs = {}
    layers = [model.conv1, model.bn1, F.relu, model.maxpool]
    for layer in layers:
        x = layer(x)
    for i in range(1, 5):
        outputs[f"res{i + 1}"] = x = getattr(model, f"layer{i}")(x)
    return outputs


def assert_same_features(features, expected):
    assert features.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(features[name], expected[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "make, depth",
    [
        (torchvision.models.resnet18, 18),
        (torchvision.models.resnet50, 50),
        (lambda: timm.create_model("resnet18"), 18),
    ],
    ids=["torchvision 18", "torchvision 50", "timm 18"],
)
def test_resnets(tmp_path, make, depth, capsys):
    torch.manual_seed(0)
    theirs = randomize_norms(make())
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    convert_weights.main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pkl")])
    report = capsys.readouterr().out
    assert "Weights of 'torchvision'" in report and "fc.weight (1)" in report
    x = torch.rand(1, 3, 64, 64)
    expected = stages_of_resnet(theirs, x)
    for file in ("theirs.pth", "ours.pkl"):
        model = Model(resnet_of_detectron2(depth))
        MaskFormerCheckpointer(model).load(str(tmp_path / file))
        assert_same_features(model.eval().backbone(x), expected)


SWIN = {"embed_dim": 12, "depths": (1, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 2}


def make_timm_swin():
    torch.manual_seed(0)
    # A size at which timm shifts the same windows as Swin's authors.
    model = SwinTransformer(img_size=128, num_classes=5, **SWIN).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias_table"):
            parameter.data.uniform_(0.5, 1.5)
    return model


def official_layout(timm_weights):
    """Names of Swin's own files."""
    weights = {}
    for name, tensor in timm_weights.items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        weights[".".join(parts).replace("head.fc", "head")] = tensor
    for i in range(4):
        for j in range(SWIN["depths"][i]):
            weights[f"layers.{i}.blocks.{j}.attn.relative_position_index"] = (
                D2SwinTransformer(
                    out_features=["res2"], **{**SWIN, "depths": [1], "num_heads": [1]}
                )
                .layers[0]
                .blocks[0]
                .attn.relative_position_index
            )
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 4, 4)
    return weights


@torch.no_grad()
@pytest.mark.parametrize("layout", ["timm", "swin"])
def test_swin(tmp_path, layout, capsys):
    theirs = make_timm_swin()
    weights = dict(theirs.state_dict())
    if layout == "swin":
        weights = official_layout(weights)
        # timm itself reads its authors' files to the same model.
        read_back = checkpoint_filter_fn({"model": dict(weights)}, theirs)
        assert all(torch.equal(read_back[k], v) for k, v in theirs.state_dict().items())
    torch.save({"model": weights}, tmp_path / "theirs.pth")
    convert_weights.main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")])
    report = capsys.readouterr().out
    assert f"Weights of '{layout}'" in report and "norm.weight (1)" in report

    x = torch.rand(1, 3, 128, 128)
    stages = theirs.forward_intermediates(x, intermediates_only=True)
    # Ours normalises the output of every stage, by norms that no classifier has.
    expected = {
        f"res{i + 2}": F.layer_norm(y.movedim(1, -1), y.shape[1:2]).movedim(-1, 1)
        for i, y in enumerate(stages)
    }
    for file in ("theirs.pth", "ours.safetensors"):
        model = Model(D2SwinTransformer(out_features=list(expected), **SWIN)).eval()
        MaskFormerCheckpointer(model).load(str(tmp_path / file))
        assert_same_features(model.backbone(x), expected)


def test_sources_are_told_apart():
    swin_weights = make_timm_swin().state_dict()
    assert find_source(swin_weights) == "timm"
    assert find_source(official_layout(swin_weights)) == "swin"
    assert find_source(torchvision.models.resnet18().state_dict()) == "torchvision"
    assert find_source(make_theirs("swin, window 4").state_dict()) == "hf"
    assert find_source(["backbone.res2.0.conv1.weight"]) is None


def test_the_backbone_of_another_code_base_keeps_its_names(tmp_path):
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = Model(torchvision.models.resnet18())
    MaskFormerCheckpointer(model).load(str(tmp_path / "theirs.pth"))
    assert torch.equal(model.backbone.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)


# What cannot be converted


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
def test_a_model_that_we_cannot_have_is_named(convert, tmp_path, section, key, value):
    folder, *_ = convert(make_theirs("swin, window 4"))
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
def test_a_resnet_that_we_cannot_have_is_named(convert, tmp_path, change, text):
    folder, *_ = convert(make_theirs("resnet 50"))
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
def test_a_model_that_transformers_cannot_have_is_named(convert, tmp_path, key, value):
    _, weights, config_file = convert(make_theirs("swin, window 4"))
    arguments = ["--to", "hf", "--config-file", str(config_file), str(weights)]
    with pytest.raises(ValueError, match=f"{key} is {value!r}"):
        convert_weights.main([*arguments, str(tmp_path / "back"), key, str(value)])
    assert not (tmp_path / "back").exists()


def test_weights_must_fit_their_configuration(convert, tmp_path):
    folder, *_ = convert(make_theirs("swin, window 4"))
    config = json.loads((folder / "config.json").read_text())
    config["decoder_config"]["num_queries"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"query_embed.weight: \(7, 16\) in the file, \(8, 16\)"):
        convert_weights.main([str(folder), str(tmp_path / "new.pth")])
    assert not (tmp_path / "new.pth").exists()


def test_unknown_weights_are_refused(tmp_path):
    torch.save({"a.b": torch.ones(1)}, tmp_path / "unknown.pth")
    with pytest.raises(ValueError, match="unknown.pth.*not those of a MaskFormer.*begin with a.b"):
        convert_weights.main([str(tmp_path / "unknown.pth"), str(tmp_path / "new.pth")])
    weights = {**torchvision.models.resnet18().state_dict(), "conv1.0.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "deep_stem.pth")
    for load in (
        lambda: convert_weights.main([str(tmp_path / "deep_stem.pth"), str(tmp_path / "new.pth")]),
        lambda: MaskFormerCheckpointer(Model(resnet_of_detectron2(18))).load(
            str(tmp_path / "deep_stem.pth")
        ),
    ):
        with pytest.raises(ValueError, match="deep_stem.pth.*no counterpart of conv1.0.weight"):
            load()


def test_a_projection_must_be_complete(convert):
    theirs = make_theirs("swin, window 4").state_dict()
    del theirs["model.transformer_module.decoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"missing: .*0.self_attn.in_proj_weight\[1\]"):
        to_ours(theirs, "hf")


def test_output_names(convert, tmp_path):
    folder, *_ = convert(make_theirs("swin, window 4"))
    with pytest.raises(ValueError, match="new.onnx: weights are written to files named .pth"):
        convert_weights.main([str(folder), str(tmp_path / "new.onnx")])
    with pytest.raises(SystemExit):
        convert_weights.main(["--to", "hf", str(folder), str(tmp_path / "back")])
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        convert_weights.main([str(tmp_path), str(tmp_path / "new.pth")])
    half = {"sem_seg_head.a": torch.ones(1, dtype=torch.bfloat16)}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="half.pkl: NumPy has no such numbers"):
        convert_weights.main([str(tmp_path / "half.pth"), str(tmp_path / "half.pkl")])
    assert not os.path.exists(tmp_path / "half.pkl")
