"""Names of weights: our own, and tables that translate those of other code bases, both ways.

A row of a table is (their name, our name). `{i}` stands for a number and `*` for one last word,
such as `weight`; what stands on one side must stand on the other. A row with None is a weight that
has no counterpart.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from mask_former.errors import UserError

Weights = dict[str, Tensor]
Pair = tuple[str | None, str | None]

# What timm calls the weights of a block of a ViT, and others after it.
VIT_BLOCK = ("norm{k}.*", "attn.qkv.*", "attn.proj.*", "mlp.fc{k}.*")

COUNTER = ".num_batches_tracked"

# (pattern, replacement) in the order in which they are applied; None drops the weight.
NAME_RULES: tuple[tuple[str, str | None], ...] = (
    # Saved from within DistributedDataParallel.
    (r"^module\.", ""),
    # Published checkpoints keep the class weights of the loss; here cfg alone says them.
    (r"^criterion\.empty_weight$", None),
    # Before the head held its pixel decoder as a module of its own.
    (
        r"^sem_seg_head\.(?=(adapter_\d|layer_\d|mask_features|input_proj|transformer)\.)",
        "sem_seg_head.pixel_decoder.",
    ),
    # Mask2Former's query features, in its published files.
    (r"^sem_seg_head\.predictor\.static_query\.", "sem_seg_head.predictor.query_feat."),
    # STDC's layers, which its authors' module holds once more by the strides of their maps.
    (r"^backbone\.x(2|4|8|16|32)\.0\.", None),
)


def canonical_names(weights: Weights) -> Weights:
    """Weights under the names of this package, by `NAME_RULES`."""
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in NAME_RULES:
            if replacement is None and re.search(pattern, name):
                break
            name = re.sub(pattern, replacement or "", name)
        else:
            renamed[name] = tensor
    return renamed


def without_counters(weights: Weights) -> tuple[Weights, list[str]]:
    """`weights` without the numbers of batches that batch norms have seen; and those names."""
    counters = [name for name in weights if name.endswith(COUNTER)]
    return {name: weights[name] for name in weights if not name.endswith(COUNTER)}, counters


def translate(weights: Weights, pairs: Sequence[Pair]) -> tuple[Weights, list[str]]:
    """Rename every weight by the first row that matches it.

    Args:
        pairs: rows of (old name, new name); None instead of a new name leaves the weight out.

    Returns:
        the renamed weights, in the same order; and the names of those that were left out.

    Raises:
        UserError: no row matches a name.
    """
    rows = [(_pattern(old), new) for old, new in pairs if old is not None]
    renamed, left_out = {}, []
    for name, tensor in weights.items():
        matches = ((pattern.fullmatch(name), new) for pattern, new in rows)
        match, new = next((found for found in matches if found[0]), (None, None))
        if match is None:
            raise UserError(f"there is no counterpart of {name}")
        if new is None:
            left_out.append(name)
        else:
            renamed[new.replace("*", "{word}").format(**match.groupdict())] = tensor
    return renamed, left_out


def moved(theirs: str, ours: str, *names: str) -> tuple[Pair, ...]:
    """Rows of weights whose names differ by their beginnings only."""
    return tuple((f"{theirs}{name}", f"{ours}{name}") for name in names)


def reverse(pairs: Sequence[Pair]) -> list[Pair]:
    """The table for the way back."""
    return [(new, old) for old, new in pairs]


def _pattern(name: str) -> re.Pattern[str]:
    pattern = re.escape(name).replace(r"\*", r"(?P<word>[^.]+)")
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", pattern))
