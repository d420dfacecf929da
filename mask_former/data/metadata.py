"""The metadata of data sets that a model needs to be built: its classes, and which are things."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from mask_former.data.classes import Category, metadata_of
from mask_former.data.datasets import check_dataset
from mask_former.data.datasets.catalog import load_registered
from mask_former.data.datasets.of_detectron2 import read_by_ourselves
from mask_former.errors import UserError, listed

logger = logging.getLogger(__name__)


def read_metadata(name: str) -> Metadata:
    """The metadata of a data set, its classes included.

    After Detectron2's `register_coco_instances` the classes are unknown until the records are
    read, which is then done here.

    Raises:
        FileNotFoundError: files of the data set are missing.
    """
    metadata = MetadataCatalog.get(name)
    has_classes = metadata.get("stuff_classes") or metadata.get("thing_classes")
    if not has_classes and name in DatasetCatalog:
        check_dataset(name)
        read_by_ourselves(name)
        if not metadata.get("thing_classes"):
            load_registered(name)
    return metadata


def with_classes(cfg: CfgNode, classes: Sequence[Category], name: str) -> CfgNode:
    """A copy of `cfg` for a model that knows its classes, and needs no data set for them.

    Args:
        classes: COCO's categories, by contiguous id; they decide NUM_CLASSES.
        name: under which their metadata are registered; the copy's only test set.
    """
    MetadataCatalog[name] = Metadata(name=name, **metadata_of(classes))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (name,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(classes)
    return cfg


def thing_classes(cfg: CfgNode) -> list[int]:
    """Contiguous ids of the things of `cfg`'s test sets, or else training sets.

    Empty if neither panoptic nor instance inference is switched on, which alone need them.

    Raises:
        UserError: no data set's metadata have them, or two data sets differ.
    """
    test = cfg.MODEL.MASK_FORMER.TEST
    if not (test.PANOPTIC_ON or test.INSTANCE_ON):
        return []
    names = list(cfg.DATASETS.TEST) or list(cfg.DATASETS.TRAIN)
    try:
        things = {
            name: read_metadata(name).get("thing_dataset_id_to_contiguous_id") for name in names
        }
    except FileNotFoundError as error:
        # A model may be tried without its data set, whose files say which classes are things.
        # Nothing is evaluated then, so no metric is wrong.
        logger.warning("All classes are treated as things, so stuff is not merged: %s", error)
        return list(range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES))
    # A semantic data set may be among them, which has no things.
    known = {name: sorted(ids.values()) for name, ids in things.items() if ids is not None}
    if not known:
        if unknown := [name for name in names if name not in DatasetCatalog]:
            raise UserError(
                f"Data sets are not registered: {listed(unknown)}. Their metadata would say which "
                "classes are things (thing_dataset_id_to_contiguous_id). `cfg.merge_from_file` "
                "does not register DATASETS.CUSTOM, `mask_former.engine.load_config` does."
            )
        raise UserError(
            "The config switches on panoptic or instance segmentation, which needs to know which "
            f"classes are things, but the classes of {listed(names) or 'no data set'} are those of "
            "semantic segmentation. Use a config of semantic segmentation "
            "(MODEL.MASK_FORMER.TEST.SEMANTIC_ON alone), or weights and data sets that have things "
            "(thing_dataset_id_to_contiguous_id in their metadata)."
        )
    if len({tuple(ids) for ids in known.values()}) > 1:
        raise UserError(
            f"The data sets {listed(sorted(known))} do not agree on which classes are things."
        )
    return next(iter(known.values()))
