"""The classes of a data set, as Detectron2's metadata name them."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import Metadata


def class_names(metadata: Metadata) -> Sequence[str]:
    """Names by contiguous id: of all classes, or of the things where there are no others."""
    return metadata.get("stuff_classes") or metadata.get("thing_classes") or []


def contiguous_ids(metadata: Metadata | Mapping[str, Any]) -> dict[int, int]:
    """Contiguous id of each category id of the data set, of stuff and of things.

    Empty where the data set's own ids are contiguous already.
    """
    return {
        **metadata.get("stuff_dataset_id_to_contiguous_id", {}),
        **metadata.get("thing_dataset_id_to_contiguous_id", {}),
    }
