"""Small MaskFormers of `transformers`, and what becomes of them."""

import torch
from detectron2.modeling import build_model
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    ResNetConfig,
    SwinConfig,
)

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.read import read_weights_file
from mask_former.engine import load_config
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


def convert(theirs, folder):
    """Save a model of transformers and convert it; returns its folder, our weights and config."""
    theirs.save_pretrained(folder / "theirs")
    convert_weights.main([str(folder / "theirs"), str(folder / "ours.pth")])
    return folder / "theirs", folder / "ours.pth", folder / "ours.yaml"


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


@torch.no_grad()
def assert_same_outputs(ours, theirs, size=(64, 64)):
    """The final predictions of two models, of the same images of some size."""
    pixels = torch.randn(2, 3, *size)
    expected = theirs(pixels)
    prediction = ours.predict(pixels)[-1]
    assert expected.masks_queries_logits.std() > 0.1
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(prediction.class_logits, expected.class_queries_logits, **close)
    torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits, **close)
