"""Names and shapes of the weights in Segmenter's published files, and made-up files of them."""

import torch

# Width and depth of the encoder.
SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}


def block(name, dim):
    return {
        f"{name}.norm1.weight": (dim,),
        f"{name}.norm1.bias": (dim,),
        f"{name}.attn.qkv.weight": (3 * dim, dim),
        f"{name}.attn.qkv.bias": (3 * dim,),
        f"{name}.attn.proj.weight": (dim, dim),
        f"{name}.attn.proj.bias": (dim,),
        f"{name}.norm2.weight": (dim,),
        f"{name}.norm2.bias": (dim,),
        f"{name}.mlp.fc1.weight": (4 * dim, dim),
        f"{name}.mlp.fc1.bias": (4 * dim,),
        f"{name}.mlp.fc2.weight": (dim, 4 * dim),
        f"{name}.mlp.fc2.bias": (dim,),
    }


def published_shapes(size, classes, crop=512, patch=16, decoder_layers=2, distilled=False):
    """{name: shape} of a file; no decoder layers: the linear decoder."""
    dim, depth = SIZES[size]
    tokens = (crop // patch) ** 2 + 1 + distilled
    shapes = {
        "encoder.cls_token": (1, 1, dim),
        "encoder.pos_embed": (1, tokens, dim),
        "encoder.patch_embed.proj.weight": (dim, 3, patch, patch),
        "encoder.patch_embed.proj.bias": (dim,),
        "encoder.norm.weight": (dim,),
        "encoder.norm.bias": (dim,),
        "encoder.head.weight": (1000, dim),
        "encoder.head.bias": (1000,),
    }
    if distilled:
        shapes["encoder.dist_token"] = (1, 1, dim)
        shapes["encoder.head_dist.weight"] = (1000, dim)
        shapes["encoder.head_dist.bias"] = (1000,)
    for i in range(depth):
        shapes |= block(f"encoder.blocks.{i}", dim)
    if not decoder_layers:
        return shapes | {"decoder.head.weight": (classes, dim), "decoder.head.bias": (classes,)}
    shapes["decoder.cls_emb"] = (1, classes, dim)
    shapes["decoder.proj_patch"] = shapes["decoder.proj_classes"] = (dim, dim)
    shapes["decoder.proj_dec.weight"], shapes["decoder.proj_dec.bias"] = (dim, dim), (dim,)
    for i in range(decoder_layers):
        shapes |= block(f"decoder.blocks.{i}", dim)
    for name, channels in (("decoder_norm", dim), ("mask_norm", classes)):
        shapes[f"decoder.{name}.weight"] = shapes[f"decoder.{name}.bias"] = (channels,)
    return shapes


def save_checkpoint(path, shapes):
    """Write a file like Segmenter's training does, with random weights; returns these."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    checkpoint = {
        "model": weights,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "momentum": 0.9, "params": [0]}]},
        "n_cls": 150,
        "lr_scheduler": {"base_lrs": [1e-3], "iter_max": 161728, "_last_lr": [1e-5]},
        "loss_scaler": None,
        "epoch": 63,
    }
    torch.save(checkpoint, path)
    return weights
