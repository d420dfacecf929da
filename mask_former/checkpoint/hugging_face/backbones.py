"""Names of the backbones' weights in `transformers`' MaskFormer and Mask2Former."""

from mask_former.checkpoint.names import Pair

ENCODER = "model.pixel_level_module.encoder."
_STAGE = f"{ENCODER}encoder.stages."


def swin(model: str) -> tuple[Pair, ...]:
    """Names of a Swin Transformer; `model` is their prefix."""
    block, ours = f"{model}encoder.layers.{{i}}.blocks.{{j}}.", "backbone.layers.{i}.blocks.{j}."
    return (
        (f"{model}embeddings.patch_embeddings.projection.*", "backbone.patch_embed.proj.*"),
        (f"{model}embeddings.norm.*", "backbone.patch_embed.norm.*"),
        (f"{block}layernorm_before.*", f"{ours}norm1.*"),
        (f"{block}attention.self.query.*", f"{ours}attn.qkv.*[0]"),
        (f"{block}attention.self.key.*", f"{ours}attn.qkv.*[1]"),
        (f"{block}attention.self.value.*", f"{ours}attn.qkv.*[2]"),
        (f"{block}attention.self.relative_*", f"{ours}attn.relative_*"),
        (f"{block}attention.output.dense.*", f"{ours}attn.proj.*"),
        (f"{block}layernorm_after.*", f"{ours}norm2.*"),
        (f"{block}intermediate.dense.*", f"{ours}mlp.fc1.*"),
        (f"{block}output.dense.*", f"{ours}mlp.fc2.*"),
        *(
            (
                f"{model}encoder.layers.{{i}}.downsample.{name}.*",
                f"backbone.layers.{{i}}.downsample.{name}.*",
            )
            for name in ("reduction", "norm")
        ),
        (f"{model}layernorm.*", None),  # of a classifier; nothing uses it
    )


RESNET: tuple[Pair, ...] = (
    (f"{ENCODER}embedder.embedder.convolution.*", "backbone.stem.conv1.*"),
    (f"{ENCODER}embedder.embedder.normalization.*", "backbone.stem.conv1.norm.*"),
    *(
        pair
        for stage in range(4)
        for theirs, ours in (
            ("shortcut", "shortcut"),
            ("layer.0", "conv1"),
            ("layer.1", "conv2"),
            ("layer.2", "conv3"),
        )
        for pair in (
            (
                f"{_STAGE}{stage}.layers.{{j}}.{theirs}.convolution.*",
                f"backbone.res{stage + 2}.{{j}}.{ours}.*",
            ),
            (
                f"{_STAGE}{stage}.layers.{{j}}.{theirs}.normalization.*",
                f"backbone.res{stage + 2}.{{j}}.{ours}.norm.*",
            ),
        )
    ),
)
