import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.family import MODELS
from mask_former import model_zoo
from tools.analyze_model import (
    Cost,
    analyze,
    build_without_weights,
    cost_table,
    input_size,
    main,
    published_multiply_adds,
)

REFERENCE = Path(__file__).parents[1] / "reference"
ZOO = json.loads((REFERENCE / "zoo.json").read_text())
COUNTED = [name for name, facts in ZOO.items() if "params_million" in facts]


class Small(nn.Module):
    """A convolution, 4 x 4 tokens that attend to themselves in two heads, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, kernel_size=2, stride=2), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, inputs):
        tokens = self.body(inputs[0]["image"][None]).flatten(2).view(1, 2, 4, 16).mT
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(tokens.mT.reshape(1, 8, 16).mT)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counts_by_hand(device):
    costs = analyze(Small().eval().to(device), (8, 8))
    conv = Cost(3 * 8 * 4 + 8, 16 * 8 * 12, 16 * 8)
    head = Cost(8 * 5 + 5, 16 * 8 * 5, 16 * 5)
    assert costs["body.0"] == conv
    assert costs["head"] == head
    assert costs["body.1"] == Cost(16, 0, 0)
    # Two heads: 16 x 16 scores of 4 channels, and as many sums of values.
    attention = 2 * (2 * 16 * 16 * 4)
    whole = costs[""]
    assert whole.parameters == conv.parameters + head.parameters + 16
    assert whole.multiply_adds == conv.multiply_adds + head.multiply_adds + attention


@pytest.mark.parametrize("name", COUNTED)
def test_published_counts(name):
    cfg = model_zoo.get_config(name)
    costs = analyze(build_without_weights(cfg), input_size(cfg))
    network = [costs["backbone"], costs["sem_seg_head"]]
    parameters = costs[""].parameters
    assert round(parameters / 1e6) == ZOO[name]["params_million"]
    assert sum(part.parameters for part in network) == parameters
    multiply_adds = sum(part.multiply_adds for part in network)
    assert multiply_adds < costs[""].multiply_adds  # the rest is semantic inference
    multiply_adds = published_multiply_adds(cfg, costs, input_size(cfg))
    published = ZOO[name]["gflops_macs_at_crop_size"]
    assert multiply_adds / 1e9 == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize(
    "file", sorted((REFERENCE / "state_dict").glob("*.json")), ids=lambda f: f.stem
)
def test_parameters_are_those_of_published_weights(file):
    """All weights but the statistics of normalisations and other buffers."""
    shapes = json.loads(file.read_text())
    model = build_without_weights(model_zoo.get_config(file.stem.replace("__", "/")))
    parameters = dict(model.named_parameters())
    assert parameters.keys() <= shapes.keys()
    expected = sum(torch.Size(shapes[name]).numel() for name in parameters)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_attention_is_counted_in_all_its_parts():
    """A transformer encoder of the pixel decoder costs what its products say."""
    cfg = model_zoo.get_config("coco-panoptic/maskformer_panoptic_R50_bs64_554k")
    costs = analyze(build_without_weights(cfg), (128, 192))
    tokens, channels, hidden = 4 * 6, 256, 2048
    layer = 4 * tokens * channels**2 + 2 * tokens**2 * channels + 2 * tokens * channels * hidden
    # The model calls the encoder alone, not the transformer that holds it.
    for name in ("transformer", "transformer.encoder"):
        assert costs[f"sem_seg_head.pixel_decoder.{name}"].multiply_adds == 6 * layer


@pytest.mark.parametrize(
    "recipe, million",
    [("R50_bs32_160k", 35.51), ("STDC1_bs32_90k", 16.99), ("STDC2_bs32_90k", 21.02)],
)
def test_pem_is_counted(recipe, million):
    """Parameters as published (17.0 and 21.0 million; 35.6 are printed with the statistics of
    norms), deformable convolutions as convolutions."""
    cfg = model_zoo.get_config(f"pem/ade20k/semantic-segmentation/pem_{recipe}")
    costs = analyze(build_without_weights(cfg), (128, 192))
    assert costs[""].parameters / 1e6 == pytest.approx(million, abs=0.005)
    for i, pixels in enumerate((4 * 6, 8 * 12, 16 * 24)):
        layer = f"sem_seg_head.pixel_decoder.dcn.{i}"
        assert costs[f"{layer}.dcn"].multiply_adds == pixels * 9 * 128 * 128
        assert costs[f"{layer}.dcn_offset"].multiply_adds == pixels * 9 * 128 * 27
        assert costs[f"{layer}.up_sample"].multiply_adds == pixels * 16 * 128 * 128


def test_deformable_attention_is_counted_without_memory():
    """The published parameters, and the linear layers of six encoder layers."""
    cfg = model_zoo.get_config("mask2former/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep")
    costs = analyze(build_without_weights(cfg), (128, 192))
    assert round(costs[""].parameters / 1e6) == 44
    tokens, channels, hidden = 4 * 6 + 8 * 12 + 16 * 24, 256, 1024
    samples = 8 * 3 * 4  # heads, maps, points
    layer = tokens * channels * (2 * channels + 3 * samples + 2 * hidden)
    found = costs["sem_seg_head.pixel_decoder.transformer.encoder"].multiply_adds
    assert found == 6 * layer


def test_segmenter_costs_what_its_products_say():
    cfg = model_zoo.get_config("segmenter/ade20k/seg_tiny_mask")
    costs = analyze(build_without_weights(cfg), input_size(cfg))
    patches, channels, classes = 32 * 32, 192, 150

    def block(tokens):
        return tokens * 12 * channels**2 + 2 * tokens**2 * channels

    encoder = patches * 3 * 16 * 16 * channels + 12 * block(patches + 1)
    decoder = patches * channels**2 + 2 * block(patches + classes)
    decoder += (patches + classes) * channels**2 + patches * classes * channels
    assert costs["backbone"].multiply_adds == encoder
    assert costs["sem_seg_head"].multiply_adds == decoder
    # All that is published but the encoder's unused classifier of 1000 classes.
    assert costs[""].parameters == 6_906_388 - 1000 * 193


def test_table_shows_modules_down_to_a_depth(capsys):
    costs = analyze(Small().eval(), (8, 8))
    lines = cost_table(costs, 1).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["model", "body", "head"]
    assert len(cost_table(costs, 2).splitlines()) == len(lines) + 2
    config = "configs/shapes/maskformer_panoptic_quickstart.yaml"
    main(["--config-file", str(Path(__file__).parents[2] / config), "--input-size", "64", "96"])
    out = capsys.readouterr().out
    assert "64 x 96" in out and "  pixel_decoder" in out


def test_eomt_by_hand():
    """Nine blocks of 5 + 40 x 40 tokens, and three with 200 queries besides."""
    cfg = model_zoo.get_config("eomt/coco/panoptic/eomt_small_640")
    costs = analyze(build_without_weights(cfg), input_size(cfg))
    tokens, queries, dim = 5 + 40 * 40, 200, 384
    blocks = 9 * (12 * dim**2 * tokens + 2 * dim * tokens**2)
    tokens += queries
    blocks += 3 * (12 * dim**2 * tokens + 2 * dim * tokens**2)
    assert costs["backbone.model.blocks"].multiply_adds == blocks
    # Transposed convolutions of 2 x 2, depthwise ones of 3 x 3.
    pixels = 80 * 80 + 160 * 160
    upscaling = dim**2 * pixels + 9 * dim * pixels
    assert costs["sem_seg_head.pixel_decoder"].multiply_adds == upscaling
    heads = queries * (3 * dim**2 + 134 * dim)
    assert costs["sem_seg_head"].multiply_adds == upscaling + heads


@pytest.mark.parametrize("name", MODELS)
def test_the_readmes_table(name):
    """And nothing of a model is counted elsewhere than in its recipe's semantic inference."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {name} |")]
    costs = analyze(build_without_weights(model_zoo.get_config(MODELS[name])), (512, 512))
    for row in rows:
        assert f"{costs[''].parameters / 1e6:.1f} M" in row
        assert f"{costs[''].multiply_adds / 1e9:.0f} G" in row
    assert len(rows) == 1


def test_the_size_of_a_window():
    assert input_size(model_zoo.get_config("eomt/ade20k/semantic/eomt_large_512")) == (512, 512)
