"""Do the classes of data sets fit the config, and each other?"""

from collections.abc import Sequence

from detectron2.config import CfgNode

from mask_former.data.classes import Category, categories_of
from mask_former.data.mapper import (
    InstanceAnnotation,
    PanopticAnnotation,
    SemanticAnnotation,
    annotation_type,
)
from mask_former.data.metadata import read_metadata
from mask_former.errors import UserError, listed


def check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Raise UserError unless the data set has MODEL.SEM_SEG_HEAD.NUM_CLASSES classes of different
    names, and ignores the label that the config ignores, which is none of its classes unless its
    metadata say so."""
    key, classes = _key(cfg), classes_of(cfg, dataset_name)
    if len(classes) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise UserError(
            f"Data set {dataset_name!r} has {len(classes)} classes ({key}), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}; set it to "
            f"{len(classes)}."
        )
    if twice := sorted({name for name in classes if list(classes).count(name) > 1}):
        raise UserError(
            f"Data set {dataset_name!r} has several classes of the name {twice[0]!r} ({key}). "
            "Rename them: metrics are told apart by name."
        )
    ignored = read_metadata(dataset_name).get("ignore_label")
    value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if key == "stuff_classes" and ignored not in (None, value):
        raise UserError(
            f"Data set {dataset_name!r} has the ignore_label {ignored} in its metadata, but "
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {value}. Which label is ignored? Set both to it."
        )
    annotation, test = annotation_type(cfg.INPUT.DATASET_MAPPER_NAME), cfg.MODEL.MASK_FORMER.TEST
    is_semantic = annotation is SemanticAnnotation
    is_semantic |= annotation is PanopticAnnotation and test.SEMANTIC_ON
    if is_semantic and ignored is None and 0 <= value < len(classes):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {value}, but that is the class {classes[value]!r} "
            f"of data set {dataset_name!r}, which semantic segmentation would leave out. Set it "
            f"to a label that no class has, such as {255 if len(classes) <= 255 else 65535}; or, "
            f"if that class is to be ignored, set ignore_label in its metadata to {value}."
        )


def classes_of(cfg: CfgNode, dataset_name: str) -> Sequence[str]:
    """Names by contiguous id of the classes that cfg's kind of annotation has.

    Raises:
        UserError: the metadata lack them.
    """
    key = _key(cfg)
    classes = read_metadata(dataset_name).get(key)
    if classes is None:
        raise UserError(
            f"The metadata of data set {dataset_name!r} has no {key}, which the mapper "
            f"{cfg.INPUT.DATASET_MAPPER_NAME} (INPUT.DATASET_MAPPER_NAME) needs."
        )
    return classes


def known_classes(cfg: CfgNode, dataset_names: Sequence[str]) -> list[Category] | None:
    """The classes of the first of some data sets, which agree, as COCO's categories; those of cfg's
    kind of annotation. None if the metadata do not say, or there is no data set."""
    if not dataset_names:
        return None
    try:
        metadata = read_metadata(dataset_names[0])
        names = metadata.get(_key(cfg))
    except FileNotFoundError:  # of the data set's own files; who reads the data set explains it
        return None
    return None if names is None else categories_of(metadata, names)


def check_agreement(cfg: CfgNode, dataset_names: Sequence[str]) -> None:
    """Raise UserError unless all data sets have the same classes under the same numbers, and the
    same of them as things."""
    key = _key(cfg)
    first, *others = dataset_names
    classes, things = classes_of(cfg, first), _things(first)
    for name in others:
        own = classes_of(cfg, name)
        if len(own) != len(classes):
            lonely = listed([c for c in (*classes, *own) if (c in classes) != (c in own)])
            raise UserError(
                f"The data sets {first!r} and {name!r} differ in their classes: they have "
                f"{len(classes)} and {len(own)} ({key}); only one of them has {lonely}. Give both "
                "the same, also where some do not occur."
            )
        for number, pair in enumerate(zip(classes, own, strict=True)):
            if pair[0] != pair[1]:
                raise UserError(
                    f"The data sets {first!r} and {name!r} differ in their classes: class {number} "
                    f"is {pair[0]!r} in the one and {pair[1]!r} in the other ({key}). Give their "
                    "categories the same names, ids and order: the numbers follow from these."
                )
        found = _things(name)
        if key == "stuff_classes" and None not in (things, found) and things != found:
            differing = classes[min(things ^ found)]
            raise UserError(
                f"The data sets {first!r} and {name!r} differ in their classes: {differing!r} is a "
                "thing in only one of them (isthing)."
            )


def _key(cfg: CfgNode) -> str:
    """The metadata that name the classes of the config's kind of annotation."""
    is_instance = annotation_type(cfg.INPUT.DATASET_MAPPER_NAME) is InstanceAnnotation
    return "thing_classes" if is_instance else "stuff_classes"


def _things(dataset_name: str) -> set[int] | None:
    ids = read_metadata(dataset_name).get("thing_dataset_id_to_contiguous_id")
    return None if ids is None else set(ids.values())
