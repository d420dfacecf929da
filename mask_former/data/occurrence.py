"""How often classes, ignored labels and segments occur in a data set: remarks on what is odd."""

from collections import Counter
from collections.abc import Container, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.agreement import classes_of
from mask_former.data.coco_json import read_instances, read_panoptic
from mask_former.data.datasets.lazy_metadata import LazyMetadata
from mask_former.data.datasets.panoptic import load_panoptic
from mask_former.data.label_map import count_pixels
from mask_former.data.mapper import (
    InstanceAnnotation,
    PanopticAnnotation,
    SemanticAnnotation,
    annotation_type,
)
from mask_former.data.reading import read_header
from mask_former.data.records import Record, evenly, image_size, read_label_map, segments_of
from mask_former.errors import UserError, listed, prefixed

# Label maps that are read, at most, and their pixels altogether.
_NUM_MAPS, _NUM_PIXELS = 100, 50_000_000
# That a class does not occur means something if there are so many label maps for each class.
_MAPS_PER_CLASS = 5


def annotation_remarks(cfg: CfgNode, name: str) -> list[str]:
    """Remarks on the annotation file that the data set's records were read from."""
    metadata = MetadataCatalog.get(name)
    kind = annotation_type(cfg.INPUT.DATASET_MAPPER_NAME)
    if kind is InstanceAnnotation and metadata.get("evaluator_type") == "coco":
        return read_instances(metadata.json_file).summary()
    if kind is PanopticAnnotation:
        load = DatasetCatalog[name]
        if isinstance(metadata, LazyMetadata) or getattr(load, "func", load) is load_panoptic:
            return read_panoptic(metadata.panoptic_json).summary()
    return []


def class_remarks(cfg: CfgNode, name: str, records: Sequence[Record]) -> list[str]:
    """Remarks on classes that do not occur, and on labels that are ignored.

    Segments are counted in memory, all of them; of label maps some are read.

    Raises:
        FileNotFoundError, UserError: a label map is wrong; or all are binary masks that are read as
            something else.
    """
    classes = classes_of(cfg, name)
    if annotation_type(cfg.INPUT.DATASET_MAPPER_NAME) is SemanticAnnotation:
        with prefixed(f"Data set {name!r}: "):
            return [f"Data set {name!r}: {r}" for r in _label_map_remarks(cfg, classes, records)]
    found = {segment["category_id"] for record in records for segment in segments_of(record)}
    return [f"Data set {name!r}: {remark}." for remark in missing_classes(classes, found)]


def missing_classes(classes: Sequence[str], found: Container[int]) -> list[str]:
    """A remark on the classes, by contiguous id, that are not among those found; none if all
    are."""
    missing = [name for i, name in enumerate(classes) if i not in found]
    if not missing:
        return []
    return [f"classes that never occur: {listed(missing)} ({len(missing)} of {len(classes)})"]


def learning_queries(cfg: CfgNode) -> int:
    """The number of a model's queries, each of which learns a segment; 0: it classifies pixels."""
    if cfg.MODEL.META_ARCHITECTURE not in ("MaskFormer", "EoMT"):
        return 0
    return cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES


def segment_remarks(cfg: CfgNode, name: str, records: Sequence[Record]) -> list[str]:
    """A remark on images of more segments than the model has queries."""
    counts = np.array(
        [sum(not segment.get("iscrowd") for segment in segments_of(record)) for record in records]
    )
    return [f"Data set {name!r}: {r}." for r in crowded_images(counts, learning_queries(cfg))]


def crowded_images(counts: np.ndarray, queries: int) -> list[str]:
    """A remark on images of more segments than queries; none if there are no such images.

    Args:
        counts: of the segments of each image, (N,).
        queries: of the model; 0: it has none.
    """
    crowded = counts > queries
    if not queries or not crowded.any():
        return []
    return [
        f"{crowded.sum()} of {len(counts)} images have more segments than the model has queries "
        f"(MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {queries}), up to {counts.max()}; "
        f"{(counts - queries)[crowded].sum()} of {counts.sum()} segments cannot be learned in an "
        "iteration"
    ]


def _label_map_remarks(
    cfg: CfgNode, classes: Sequence[str], records: Sequence[Record]
) -> list[str]:
    ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    pixels: Counter = Counter()
    num_maps = 0
    for record in evenly(records, _NUM_MAPS):
        if "sem_seg_file_name" not in record or pixels.total() > _NUM_PIXELS:
            continue
        exif = cfg.INPUT.EXIF_ORIENTATION
        size = image_size(record) or read_header(record["file_name"]).shown(exif)
        labels, counts = count_pixels(read_label_map(record, size, len(classes), ignore_value))
        pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
        num_maps += 1
    if not num_maps:
        return []
    total, ignored = pixels.total(), pixels.pop(ignore_value, 0)
    seen = f"in {num_maps} of {len(records)} label maps that were read"
    share = f"the label {ignore_value} (MODEL.SEM_SEG_HEAD.IGNORE_VALUE), which is ignored, fills"
    if ignored == total:
        return [f"{seen}, {share} everything: nothing can be learned."]
    missing = missing_classes(classes, {*pixels, ignore_value})
    sure = num_maps == len(records) or num_maps >= _MAPS_PER_CLASS * len(classes)
    if not missing or not sure:
        return []
    if len(classes) == 2 and ignored and 1 not in pixels and "label_encoding" in records[0]:
        raise UserError(
            f"{seen}, there are only {classes[0]!r} and the value {ignore_value}, which is ignored."
            " If they are masks of 0 and 255, set ENCODING to binary (DATASETS.CUSTOM, or "
            "register_semantic)."
        )
    return [
        f"{seen}, there are {missing[0]}; {share} {ignored / total:.1%}. Is it meant to be ignored?"
    ]
