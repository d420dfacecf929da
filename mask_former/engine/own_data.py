"""Data sets of the user's own: registered, and what a config need not say because they do."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data import large_scale_jitter
from mask_former.data.agreement import classes_of
from mask_former.data.datasets import BUILTIN
from mask_former.data.datasets.custom import register_custom
from mask_former.data.mapper import (
    ANNOTATIONS,
    Annotation,
    InstanceAnnotation,
    PanopticAnnotation,
    SemanticAnnotation,
)
from mask_former.data.metadata import read_metadata
from mask_former.engine.imports import import_module
from mask_former.engine.keys import section_of
from mask_former.errors import MissingFileError, UserError, listed
from mask_former.evaluation.build import EVALUATORS, annotated_tasks

logger = logging.getLogger(__name__)

_NUM_CLASSES = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
_IGNORE_VALUE = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"
_MAPPER = "INPUT.DATASET_MAPPER_NAME"
_TASKS = ("SEMANTIC_ON", "PANOPTIC_ON", "INSTANCE_ON")
_SWITCHES = {f"MODEL.MASK_FORMER.TEST.{task}": task for task in _TASKS}
# By the switch of a data set's main task: its annotation, and the mappers of it, the first of them
# by default and the second one instead of another large-scale jitter.
_MAPPERS: dict[str, tuple[type[Annotation], str, str]] = {
    "SEMANTIC_ON": (SemanticAnnotation, "mask_former_semantic", "semantic_lsj"),
    "PANOPTIC_ON": (PanopticAnnotation, "mask_former_panoptic", "coco_panoptic_lsj"),
    "INSTANCE_ON": (InstanceAnnotation, "mask_former_instance", "coco_instance_lsj"),
}


def register_own(cfg: CfgNode) -> None:
    """Import the modules of IMPORTS and register the data sets of DATASETS.CUSTOM, once a process.

    Raises:
        UserError: there is no such module; a data set lacks a key, or has one without meaning.
    """
    for module in cfg.IMPORTS:
        import_module(module)
    register_custom(cfg)


def given_with_data(settings: Sequence[tuple[str, Any, str]]) -> dict[str, str]:
    """The keys that are set where DATASETS.TRAIN or TEST was set last, or later: those before are
    for other data sets. With the place of each.

    Args:
        settings: key, value and source, from the first to the last that is applied.
    """
    start = 0
    for index, (key, _, source) in enumerate(settings):
        if index == 0 or source != settings[index - 1][2]:
            first = index
        if key in ("DATASETS.TRAIN", "DATASETS.TEST"):
            start = first
    return {key: source for key, _, source in settings[start:]}


class _Said(NamedTuple):
    """What the data say about a key.

    Attributes:
        key: full name.
        value: what the key becomes, unless it is given.
        accepted: what it may be if it is given.
        why: a clause about the data set.
    """

    key: str
    value: Any
    accepted: Collection[Any]
    why: str


def follow_data(cfg: CfgNode, given: Mapping[str, str]) -> None:
    """Set what follows from data sets of the user's own: mapper, outputs, number of classes and
    ignored label. What is set is logged.

    Without the files of the data sets, as where a trained model is used, classes stay as they are.

    Args:
        cfg: changed in place, if DATASETS names data sets that are not built in.
        given: keys that the user has set for these data sets, which stay, with their place.

    Raises:
        UserError: one of those contradicts the data.
    """
    train, test = (
        [name for name in names if name in DatasetCatalog and name not in BUILTIN]
        for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    if not (train or test):
        return
    lines = []
    for said in _what_data_say(cfg, given, train, test):
        section, name = section_of(cfg, said.key)
        if said.key not in given:
            section[name] = said.value
            lines.append(f"{said.key} {said.value}: {said.why}")
        elif section[name] not in said.accepted:
            raise UserError(
                f"{given[said.key]}: {said.key} is {section[name]!r}, but {said.why}: it must be "
                f"{' or '.join(map(repr, said.accepted))}. Leave it out to have it set."
            )
    if lines and os.environ.get("RANK", "0") == "0":
        # A warning, since nobody has set up logs yet.
        logger.warning("%s", "\n  ".join(["Set as the data sets say:", *lines]))


def _what_data_say(
    cfg: CfgNode, given: Mapping[str, str], train: list[str], test: list[str]
) -> Iterator[_Said]:
    # The user's own training sets decide, then built-in ones, whose mapper the recipe has.
    builtin = [name for name in cfg.DATASETS.TRAIN if name in BUILTIN]
    name = (train or builtin or test)[0]
    if name not in BUILTIN:
        yield from _mapper(cfg, name)
    yield from _outputs(test or train, given)
    if {_NUM_CLASSES, _IGNORE_VALUE} <= given.keys():
        return  # `check_data` compares them; no file is read for nothing
    try:
        classes = classes_of(cfg, name)
        ignored = read_metadata(name).get("ignore_label")
    except MissingFileError as error:
        logger.warning("The number of classes is not read from the data: %s", error)
        return
    why = f"data set {name!r} has {len(classes)} classes: {listed(classes)}"
    yield _Said(_NUM_CLASSES, len(classes), (len(classes),), why)
    if ignored is not None:
        why = f"it is the ignored label of data set {name!r}"
        yield _Said(_IGNORE_VALUE, ignored, (ignored,), why)


def _mapper(cfg: CfgNode, name: str) -> Iterator[_Said]:
    evaluator_type = MetadataCatalog.get(name).get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        return
    annotation, plain, jittered = _MAPPERS[EVALUATORS[evaluator_type][0].switch]
    mapper = cfg.INPUT.DATASET_MAPPER_NAME
    fitting = [known for known, kind in ANNOTATIONS.items() if kind is annotation]
    if mapper not in fitting:
        mapper = jittered if mapper in large_scale_jitter.NAMES else plain
    yield _Said(_MAPPER, mapper, fitting, f"data set {name!r} is of the type {evaluator_type}")


def _outputs(names: list[str], given: Mapping[str, str]) -> Iterator[_Said]:
    types = {name: MetadataCatalog.get(name).get("evaluator_type") for name in names}
    if not EVALUATORS.keys() >= set(types.values()):
        return
    possible = {task.switch for type_ in types.values() for task in EVALUATORS[type_]}
    evaluated = {EVALUATORS[type_][0].switch for type_ in types.values()}
    if not _SWITCHES.keys() <= given.keys():
        with suppress(MissingFileError):
            evaluated = {task.switch for name in names for task in annotated_tasks(name)}
    why = ", ".join(f"data set {name!r} is of the type {type_}" for name, type_ in types.items())
    for key, switch in _SWITCHES.items():
        accepted = (True, False) if switch in possible else (False,)
        yield _Said(key, switch in evaluated, accepted, why)
