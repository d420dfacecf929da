"""Whose weights are these, and what are they called here?"""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from mask_former.checkpoint.hugging_face import COUNTER, from_hugging_face
from mask_former.checkpoint.imagenet import RESNET, SWIN, TIMM_SWIN
from mask_former.checkpoint.names import Pair, UnknownNameError, Weights, translate
from mask_former.errors import UserError


class Source(NamedTuple):
    """A code base whose weights can be converted.

    Attributes:
        sign: a name by which its weights are known from those of the sources below it.
        convert: its weights -> ours, and its names of what is left out.
    """

    sign: str
    convert: Callable[[Weights], tuple[Weights, list[str]]]


class Conversion(NamedTuple):
    """Foreign weights under our names.

    Attributes:
        source: a key of `SOURCES`.
        weights: ours.
        left_out: foreign names of what we have no counterpart of.
    """

    source: str
    weights: Weights
    left_out: list[str]


def _from_classifier(pairs: tuple[Pair, ...], weights: Weights) -> tuple[Weights, list[str]]:
    # A frozen norm, the default of backbones, counts no batches; another one starts to count anew.
    counters = [name for name in weights if name.endswith(COUNTER)]
    renamed, left_out = translate({k: v for k, v in weights.items() if k not in counters}, pairs)
    return renamed, left_out + counters


SOURCES: dict[str, Source] = {
    "hf": Source("model.transformer_module.queries_embedder.weight", from_hugging_face),
    "timm": Source(
        "layers.3.downsample.reduction.weight", partial(_from_classifier, RESNET + TIMM_SWIN)
    ),
    "swin": Source("layers.0.downsample.reduction.weight", partial(_from_classifier, SWIN)),
    # timm's ResNets have the same names.
    "torchvision": Source("layer1.0.conv1.weight", partial(_from_classifier, RESNET)),
}


def find_source(names: Collection[str]) -> str | None:
    """The source whose names these are, a key of `SOURCES`; None: none of them."""
    return next((key for key, source in SOURCES.items() if source.sign in names), None)


def to_ours(weights: Weights, source: str) -> Conversion:
    """Convert foreign weights.

    Args:
        source: whose they are, a key of `SOURCES`.

    Raises:
        ValueError: they are of an architecture that has no counterpart here.
    """
    try:
        return Conversion(source, *SOURCES[source].convert(weights))
    except UnknownNameError as error:
        raise UserError(
            f"as weights of '{source}' they cannot be converted: there is no counterpart of {error}"
        ) from error
