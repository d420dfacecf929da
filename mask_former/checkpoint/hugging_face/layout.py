"""How the weights of one of `transformers`' models correspond to ours."""

from collections.abc import Callable
from typing import NamedTuple

from mask_former.checkpoint.names import Pair, Weights


def _unchanged(weights: Weights) -> Weights:
    return weights


class Layout(NamedTuple):
    """The weights of a model that exists in `transformers` and here.

    Attributes:
        their_key, our_key: names by which its weights are told from those of other layouts.
        pairs: a table for `names.translate`. Where their queries, keys and values are projected by
            three weights and ours by one, it calls the three parts of ours `[0]`, `[1]`, `[2]`.
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
