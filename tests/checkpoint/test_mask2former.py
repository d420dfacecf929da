"""Mask2Former against that of `transformers`: outputs, and conversion there and back."""

import json

import pytest
import torch
from detectron2.layers import ShapeSpec
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerTransformerModule,
)

from mask_former.checkpoint import to_ours
from mask_former.checkpoint.hugging_face.weights import from_hugging_face
from mask_former.checkpoint.read import read_weights_file
from mask_former.layers import TransformerOptions
from mask_former.pixel_decoder import MSDeformAttnPixelDecoder
from mask_former.predictor import MultiScaleMaskedTransformerDecoder
from tests.checkpoint.mask2former_models import SHAPES, make_theirs
from tests.checkpoint.transformers_models import (
    assert_same_files,
    assert_same_outputs,
    build_ours,
    convert,
)
from tools import convert_weights

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_outputs_as_transformers(tmp_path, shape):
    theirs = make_theirs(shape)
    *_, config_file = convert(theirs, tmp_path)
    ours = build_ours(config_file)
    for size in ((96, 160), (64, 64), (160, 128)):  # no multiples of the windows
        assert_same_outputs(ours, theirs, size)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (128, 64)])
def test_every_prediction_of_resnet_channels(size):
    """The pixel decoder and the transformer alone, with the channels of a ResNet-50."""
    channels = [256, 512, 1024, 2048]
    config = Mask2FormerConfig(
        encoder_layers=2, decoder_layers=4, num_queries=9, dim_feedforward=64, dropout=0.0
    )
    torch.manual_seed(0)
    decoder = Mask2FormerPixelDecoder(config, channels).eval()
    decoder.level_embed.normal_()  # its constructor leaves what was in memory, NaN among it
    module = Mask2FormerTransformerModule(256, config).eval()
    for parameter in module.parameters():
        parameter.copy_(parameter + 0.05 * torch.randn_like(parameter))
    weights = {f"model.pixel_level_module.decoder.{k}": v for k, v in decoder.state_dict().items()}
    weights |= {f"model.transformer_module.{k}": v for k, v in module.state_dict().items()}
    converted, _ = from_hugging_face(weights)

    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)}

    shapes = {f"res{i + 2}": ShapeSpec(channels=c, stride=4 * 2**i) for i, c in enumerate(channels)}
    options = TransformerOptions(num_heads=8, dim_feedforward=1024, dropout=0.0)
    pixel_decoder = MSDeformAttnPixelDecoder(
        input_shape=shapes,
        in_features=list(shapes),
        encoder_in_features=["res3", "res4", "res5"],
        num_layers=2,
        transformer=options,
    ).eval()
    pixel_decoder.load_state_dict(part("sem_seg_head.pixel_decoder."))
    predictor = MultiScaleMaskedTransformerDecoder(
        memory_shape=pixel_decoder.memory_shape,
        num_classes=4,
        num_queries=9,
        num_layers=3,
        transformer=TransformerOptions(num_heads=8, dim_feedforward=64, dropout=0.0),
    ).train()
    classifier = {
        name: tensor for name, tensor in predictor.state_dict().items() if "class_embed" in name
    }
    predictor.load_state_dict({**part("sem_seg_head.predictor."), **classifier})

    features = {
        name: torch.randn(2, s.channels, size[0] // s.stride, size[1] // s.stride)
        for name, s in shapes.items()
    }
    theirs = decoder(list(features.values()))
    pixels = pixel_decoder(features)
    torch.testing.assert_close(pixels.mask_features, theirs.mask_features, **CLOSE)
    for ours, expected in zip(pixels.memory, theirs.multi_scale_features, strict=True):
        torch.testing.assert_close(ours, expected, **CLOSE)
    outputs = module(list(theirs.multi_scale_features), theirs.mask_features)
    predictions = predictor(pixels)
    assert len(predictions) == len(outputs.masks_queries_logits) == 4
    for ours, expected in zip(predictions, outputs.masks_queries_logits, strict=True):
        torch.testing.assert_close(ours.mask_logits, expected, **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(tmp_path, shape):
    folder, weights, config_file = convert(make_theirs(shape), tmp_path)
    back = tmp_path / "back"
    convert_weights.main(["--to", "hf", "--config-file", str(config_file), str(weights), str(back)])
    assert_same_files(folder / "model.safetensors", back / "model.safetensors")
    before, after = (json.loads((x / "config.json").read_text()) for x in (folder, back))
    backbone = after.pop("backbone_config")
    assert backbone == {key: before["backbone_config"][key] for key in backbone}
    assert after == {key: before[key] for key in after}
    convert_weights.main([str(back), str(tmp_path / "again.pth")])
    assert_same_files(weights, tmp_path / "again.pth")

    theirs, info = Mask2FormerForUniversalSegmentation.from_pretrained(
        back, output_loading_info=True
    )
    assert not any(info.values()), info


def test_names_of_a_model_in_memory(tmp_path):
    theirs = make_theirs("swin, window 4")
    _, file, _ = convert(theirs, tmp_path)
    converted = to_ours(dict(theirs.state_dict()), "hf").weights
    expected = read_weights_file(str(file))["model"]
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS", 2),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", 2),
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res4"),
    ],
)
def test_a_model_that_transformers_cannot_have_is_named(tmp_path, key, value):
    _, weights, config_file = convert(make_theirs("swin, window 4"), tmp_path)
    arguments = ["--to", "hf", "--config-file", str(config_file), str(weights)]
    with pytest.raises(ValueError, match=f"{key} is {value!r}"):
        convert_weights.main([*arguments, str(tmp_path / "back"), key, str(value)])
