"""How the weights of one of `transformers`' models correspond to ours."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mask_former.checkpoint.names import Pair, Weights


def joined(theirs: str, rest: str, ours: str, names: Sequence[str] = "qkv") -> tuple[Pair, ...]:
    """Rows of a projection of queries, keys and values: three weights there, and one here, whose
    parts are called `[0]`, `[1]` and `[2]`."""
    return tuple((f"{theirs}{name}{rest}", f"{ours}[{i}]") for i, name in enumerate(names))


def _unchanged(weights: Weights) -> Weights:
    return weights


class Layout(NamedTuple):
    """The weights of a model that exists in `transformers` and here.

    Attributes:
        their_key, our_key: names by which its weights are told from those of other layouts.
        pairs: a table for `names.translate`, with the parts of `joined` weights.
        swin: prefix of their Swin Transformer, which has a last norm that nothing uses.
        prepare: their weights -> weights with the names of the table.
        complete: weights that are ours by name -> all of ours, in our shapes.
        restore: the way back; weights that are theirs by the table -> all of theirs.
    """

    their_key: str
    our_key: str
    pairs: tuple[Pair, ...]
    swin: str = ""
    prepare: Callable[[Weights], Weights] = _unchanged
    complete: Callable[[Weights], Weights] = _unchanged
    restore: Callable[[Weights], Weights] = _unchanged
