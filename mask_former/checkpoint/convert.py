"""Weights of other code bases: which one they are of, and what they are called here."""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from mask_former.checkpoint.classes import Category, classes_in
from mask_former.checkpoint.compatibility import has_head
from mask_former.checkpoint.eomt import from_eomt
from mask_former.checkpoint.hugging_face import find_weights, from_hugging_face
from mask_former.checkpoint.hugging_face.weights import LAYOUTS
from mask_former.checkpoint.imagenet import RESNET, STDC, SWIN, TIMM_SWIN, from_classifier
from mask_former.checkpoint.names import Weights, canonical_names
from mask_former.checkpoint.read import read_weights_file
from mask_former.checkpoint.segmenter import from_segmenter
from mask_former.errors import UserError, prefixed


class Source(NamedTuple):
    """A code base whose weights can be converted.

    Attributes:
        signature_keys: names one of which tells its weights from those of the sources below it.
        convert: its weights -> ours, and its names of what is left out.
    """

    signature_keys: tuple[str, ...]
    convert: Callable[[Weights], tuple[Weights, list[str]]]


class Conversion(NamedTuple):
    """Weights under our names.

    Attributes:
        source: a key of `SOURCES`, or "ours".
        weights: ours.
        left_out: the source's names of what we have no counterpart of.
        classes: that they were trained on; None: the file does not say.
    """

    source: str
    weights: Weights
    left_out: list[str]
    classes: list[Category] | None = None


SOURCES: dict[str, Source] = {
    # The files of its authors.
    "eomt": Source(("network.class_head.weight",), from_eomt),
    "hf": Source(tuple(layout.their_key for layout in LAYOUTS), from_hugging_face),
    "segmenter": Source(("encoder.cls_token",), from_segmenter),
    "timm": Source(
        ("layers.3.downsample.reduction.weight",), partial(from_classifier, RESNET + TIMM_SWIN)
    ),
    "swin": Source(("layers.0.downsample.reduction.weight",), partial(from_classifier, SWIN)),
    "stdc": Source(("features.2.conv_list.0.conv.weight",), partial(from_classifier, STDC)),
    # timm's ResNets have the same names.
    "torchvision": Source(("layer1.0.conv1.weight",), partial(from_classifier, RESNET)),
}


def find_source(names: Collection[str]) -> str | None:
    """The source of weights with these names, a key of `SOURCES`; None: none of them."""
    for key, source in SOURCES.items():
        if any(name in names for name in source.signature_keys):
            return key
    return None


def to_ours(weights: Weights, source: str, file: str = "weights in memory") -> Conversion:
    """Convert the weights of another code base.

    Args:
        source: that code base, a key of `SOURCES`.
        file: where they come from, for the message of an error.

    Raises:
        UserError: they are of an architecture that has no counterpart here.
    """
    with prefixed(f"{file}: as weights of '{source}' they cannot be converted: "):
        return Conversion(source, *SOURCES[source].convert(weights))


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
    checkpoint = read_weights_file(path)
    weights = checkpoint["model"]
    source = source or find_source(weights)
    if source is not None:
        return to_ours(weights, source, path)
    ours = canonical_names(weights)
    if not has_head(ours):
        raise UserError(
            f"{path}: the names of its weights are not those of a MaskFormer, nor of any of "
            f"{', '.join(SOURCES)}; they begin with {', '.join(list(weights)[:3])}"
        )
    left_out = sorted(weights.keys() - ours.keys())
    return Conversion("ours", ours, left_out, classes_in(checkpoint))
