"""Names of ImageNet classifiers, whose backbones trainings start from.

The layers that classify are left out, and so is what our backbones have no counterpart of.
"""

from mask_former.checkpoint.names import (
    VIT_BLOCK,
    Pair,
    Weights,
    moved,
    translate,
    without_counters,
)


def from_classifier(pairs: tuple[Pair, ...], weights: Weights) -> tuple[Weights, list[str]]:
    """Our weights of those of a classifier, by a table below; and its names of what is left out.

    A norm that counts batches starts to count anew; a frozen one, the default of backbones, has no
    counter.

    Raises:
        UserError: a weight has no counterpart.
    """
    weights, counters = without_counters(weights)
    ours, left_out = translate(weights, pairs)
    return ours, left_out + counters


def _resnet_stage(theirs: str, ours: str) -> tuple[Pair, ...]:
    return (
        (f"{theirs}.{{i}}.conv{{k}}.weight", f"{ours}.{{i}}.conv{{k}}.weight"),
        (f"{theirs}.{{i}}.bn{{k}}.*", f"{ours}.{{i}}.conv{{k}}.norm.*"),
        (f"{theirs}.{{i}}.downsample.0.weight", f"{ours}.{{i}}.shortcut.weight"),
        (f"{theirs}.{{i}}.downsample.1.*", f"{ours}.{{i}}.shortcut.norm.*"),
    )


# ResNets of torchvision, and timm's of the same architecture (no "d", "s" or "t" at the end).
RESNET: tuple[Pair, ...] = (
    ("conv1.weight", "backbone.stem.conv1.weight"),
    ("bn1.*", "backbone.stem.conv1.norm.*"),
    *_resnet_stage("layer1", "backbone.res2"),
    *_resnet_stage("layer2", "backbone.res3"),
    *_resnet_stage("layer3", "backbone.res4"),
    *_resnet_stage("layer4", "backbone.res5"),
    ("fc.*", None),
)

_SWIN: tuple[Pair, ...] = (
    *moved("", "backbone.", "absolute_pos_embed", "patch_embed.proj.*", "patch_embed.norm.*"),
    *moved("layers.{i}.blocks.{j}.", "backbone.layers.{i}.blocks.{j}.", *VIT_BLOCK, "attn.*"),
    # Made for one size of image, and the norm and the layer of the classifier.
    ("layers.{i}.blocks.{j}.attn_mask", None),
    ("norm.*", None),
    ("head.*", None),
    ("head.fc.*", None),
)

# Swin Transformers of the paper's authors.
SWIN: tuple[Pair, ...] = (
    *_SWIN,
    *moved("layers.{i}.downsample.", "backbone.layers.{i}.downsample.", "reduction.*", "norm.*"),
)

# timm's: there a stage begins with the downsampling that ends the stage before it elsewhere.
TIMM_SWIN: tuple[Pair, ...] = (
    *_SWIN,
    *(
        (f"layers.{i}.downsample.{name}.*", f"backbone.layers.{i - 1}.downsample.{name}.*")
        for i in (1, 2, 3)
        for name in ("reduction", "norm")
    ),
)


def _stdc_layer(theirs: str, ours: str | None) -> tuple[Pair, ...]:
    names = ("conv.weight", "bn.*", "conv_list.{j}.conv.weight", "conv_list.{j}.bn.*")
    names += ("avd_layer.0.weight", "avd_layer.1.*")
    return tuple((f"{theirs}.{name}", ours and f"{ours}.{name}") for name in names)


# STDC networks of the paper's authors, who hold every layer twice.
STDC: tuple[Pair, ...] = (
    *_stdc_layer("features.{i}", "backbone.features.{i}"),
    *_stdc_layer("x{k}.0.{i}", None),
    *((f"{name}.*", None) for name in ("conv_last.conv", "conv_last.bn", "fc", "bn", "linear")),
)
