"""Weights of other code bases: which one they are of, and what they are called here."""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from mask_former.checkpoint.compatibility import has_head
from mask_former.checkpoint.hugging_face import find_weights, from_hugging_face
from mask_former.checkpoint.imagenet import RESNET, SWIN, TIMM_SWIN, from_classifier
from mask_former.checkpoint.names import Weights, canonical_names
from mask_former.checkpoint.read import read_weights_file
from mask_former.checkpoint.segmenter import from_segmenter
from mask_former.errors import UserError


class Source(NamedTuple):
    """A code base whose weights can be converted.

    Attributes:
        signature_key: a name by which its weights are told from those of the sources below it.
        convert: its weights -> ours, and its names of what is left out.
    """

    signature_key: str
    convert: Callable[[Weights], tuple[Weights, list[str]]]


class Conversion(NamedTuple):
    """Weights under our names.

    Attributes:
        source: a key of `SOURCES`, or "ours".
        weights: ours.
        left_out: the source's names of what we have no counterpart of.
    """

    source: str
    weights: Weights
    left_out: list[str]


SOURCES: dict[str, Source] = {
    "hf": Source("model.transformer_module.queries_embedder.weight", from_hugging_face),
    "segmenter": Source("encoder.cls_token", from_segmenter),
    "timm": Source(
        "layers.3.downsample.reduction.weight", partial(from_classifier, RESNET + TIMM_SWIN)
    ),
    "swin": Source("layers.0.downsample.reduction.weight", partial(from_classifier, SWIN)),
    # timm's ResNets have the same names.
    "torchvision": Source("layer1.0.conv1.weight", partial(from_classifier, RESNET)),
}


def find_source(names: Collection[str]) -> str | None:
    """The source of weights with these names, a key of `SOURCES`; None: none of them."""
    return next((key for key, source in SOURCES.items() if source.signature_key in names), None)


def to_ours(weights: Weights, source: str, file: str = "weights in memory") -> Conversion:
    """Convert the weights of another code base.

    Args:
        source: that code base, a key of `SOURCES`.
        file: where they come from, for the message of an error.

    Raises:
        UserError: they are of an architecture that has no counterpart here.
    """
    try:
        return Conversion(source, *SOURCES[source].convert(weights))
    except UserError as error:
        raise UserError(
            f"{file}: as weights of '{source}' they cannot be converted: {error}"
        ) from error


def read_as_ours(path: str, source: str | None = None) -> Conversion:
    """Read weights from any file, under our names.

    Args:
        path: a file, or a folder of `transformers`.
        source: whose weights they are, a key of `SOURCES`; by default found by their names.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is broken, or its weights are neither ours nor of any source.
    """
    path = find_weights(path)
    weights = read_weights_file(path)["model"]
    source = source or find_source(weights)
    if source is not None:
        return to_ours(weights, source, path)
    ours = canonical_names(weights)
    if not has_head(ours):
        raise UserError(
            f"{path}: the names of its weights are not those of a MaskFormer, nor of any of "
            f"{', '.join(SOURCES)}; they begin with {', '.join(list(weights)[:3])}"
        )
    return Conversion("ours", ours, sorted(weights.keys() - ours.keys()))
