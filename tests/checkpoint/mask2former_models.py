"""Small Mask2Formers of `transformers`."""

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from tests.checkpoint.transformers_models import resnet, swin

# name -> backbone, other options
SHAPES = {
    "swin, window 4": (swin(window_size=4), {}),
    "swin, window 3, three layers": (
        swin(window_size=3, embed_dim=4, depths=[2, 1, 1, 1], num_heads=[1] * 4, qkv_bias=False),
        {"decoder_layers": 4, "num_attention_heads": 2, "mask_feature_size": 24, "num_labels": 7},
    ),
    "swin, projected, pre-norm": (
        swin(window_size=2),
        {"enforce_input_projection": True, "pre_norm": True, "num_queries": 9},
    ),
    "resnet 50": (resnet(embedding_size=6), {"encoder_layers": 2, "no_object_weight": 0.4}),
}


def make_theirs(shape):
    """A model whose every weight matters."""
    torch.manual_seed(0)
    backbone, options = SHAPES[shape]
    defaults = {
        "feature_size": 32,
        "mask_feature_size": 16,
        "hidden_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 5,
        "num_attention_heads": 4,
        "dim_feedforward": 24,
        "num_queries": 7,
        "num_labels": 3,
    }
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=backbone, **{**defaults, **options})
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "criterion" not in name:
                unused = ".swin.layernorm." in name
                if tensor.ndim == 1 and name.endswith(("weight", "running_var")) and not unused:
                    tensor.uniform_(0.5, 1.5)
                elif tensor.ndim == 1 and not unused:
                    tensor.normal_(std=0.1)
                elif "relative_position_bias_table" in name:
                    tensor.normal_()
                elif "sampling_offsets" in name or "attention_weights" in name:
                    tensor.normal_(std=0.3)
                elif "mask_embedder.2" in name:
                    tensor.mul_(8)  # masks of a trained model's contrast
    return model.eval()
