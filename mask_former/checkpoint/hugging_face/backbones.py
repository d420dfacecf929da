"""Names of the backbones' weights in `transformers`' MaskFormer and Mask2Former."""

from mask_former.checkpoint.hugging_face.layout import joined
from mask_former.checkpoint.names import Pair, moved

ENCODER = "model.pixel_level_module.encoder."
_STAGE = f"{ENCODER}encoder.stages."


def swin(model: str) -> tuple[Pair, ...]:
    """Names of a Swin Transformer; `model` is their prefix."""
    block, ours = f"{model}encoder.layers.{{i}}.blocks.{{j}}.", "backbone.layers.{i}.blocks.{j}."
    downsample = "layers.{i}.downsample."
    return (
        (f"{model}embeddings.patch_embeddings.projection.*", "backbone.patch_embed.proj.*"),
        (f"{model}embeddings.norm.*", "backbone.patch_embed.norm.*"),
        (f"{block}layernorm_before.*", f"{ours}norm1.*"),
        *joined(
            f"{block}attention.self.", ".*", f"{ours}attn.qkv.*", names=("query", "key", "value")
        ),
        (f"{block}attention.self.relative_*", f"{ours}attn.relative_*"),
        (f"{block}attention.output.dense.*", f"{ours}attn.proj.*"),
        (f"{block}layernorm_after.*", f"{ours}norm2.*"),
        (f"{block}intermediate.dense.*", f"{ours}mlp.fc1.*"),
        (f"{block}output.dense.*", f"{ours}mlp.fc2.*"),
        *moved(f"{model}encoder.", "backbone.", f"{downsample}reduction.*", f"{downsample}norm.*"),
        (f"{model}layernorm.*", None),  # of a classifier; nothing uses it
    )


RESNET: tuple[Pair, ...] = (
    (f"{ENCODER}embedder.embedder.convolution.*", "backbone.stem.conv1.*"),
    (f"{ENCODER}embedder.embedder.normalization.*", "backbone.stem.conv1.norm.*"),
    *(
        (
            f"{_STAGE}{stage}.layers.{{j}}.{theirs}.{their_part}.*",
            f"backbone.res{stage + 2}.{{j}}.{ours}.{part}*",
        )
        for stage in range(4)
        for theirs, ours in (
            ("shortcut", "shortcut"),
            ("layer.0", "conv1"),
            ("layer.1", "conv2"),
            ("layer.2", "conv3"),
        )
        for their_part, part in (("convolution", ""), ("normalization", "norm."))
    ),
)
