"""Scoring saved predictions without a model.

They are given to the evaluators as a model's output would be, so that the metrics are those of an
evaluation.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from tqdm import tqdm

from mask_former.data.json_files import entries, read_json
from mask_former.data.records import Record, load_records
from mask_former.errors import MissingFileError, UserError, listed
from mask_former.evaluation.build import annotated_tasks, build_evaluator
from mask_former.evaluation.instance import InstanceEvaluator
from mask_former.evaluation.panoptic import PanopticEvaluator
from mask_former.evaluation.saved import SavedPanoptic, SavedSemantic, read_instance_results
from mask_former.evaluation.semantic import SemanticEvaluator

logger = logging.getLogger(__name__)

_SWITCHES = {"panoptic": "PANOPTIC_ON", "semantic": "SEMANTIC_ON", "instances": "INSTANCE_ON"}


def find_results(path: str | Path) -> dict[str, Path]:
    """The files of results, by kind: panoptic, semantic, instances.

    Args:
        path: a folder that `ResultWriter` or an evaluation has written; or one file of it, or of
            another program: a panoptic JSON beside a folder of its name, a list of instances; or a
            folder of semantic PNG.

    Raises:
        UserError: there is nothing of that, or in folders of the folder.
    """
    path = Path(path)
    if path.is_dir():
        found = {kind: path / f"{kind}.json" for kind in _SWITCHES}
        found = {kind: file for kind, file in found.items() if file.is_file()}
        below = {file.parent for kind in _SWITCHES for file in path.glob(f"*/{kind}.json")}
        if not found and below:
            raise UserError(
                f"{path} holds results in its folders: name one of {listed(sorted(below))}."
            )
        if not found and any(path.rglob("*.png")):
            found = {"semantic": path}
    elif path.is_file():
        content = read_json(str(path))
        is_panoptic = isinstance(content, dict) and any(
            "segments_info" in annotation
            for annotation in entries(content, "annotations", str(path), ())[:1]
        )
        kind = "panoptic" if is_panoptic else "semantic"
        found = {"instances" if isinstance(content, list) else kind: path}
    else:
        raise MissingFileError(f"There are no results {path}.")
    if not found:
        names = ", ".join(f"{kind}.json" for kind in _SWITCHES)
        raise UserError(
            f"{path} has no PNG, and none of {names}: which folder did the demo or the evaluation "
            "save its results in?"
        )
    return found


def score(results: Mapping[str, Path], cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
    """Compare saved results with the ground truth of a data set.

    Args:
        results: of `find_results`.
        cfg: read for MODEL.SEM_SEG_HEAD.IGNORE_VALUE.
        dataset_name: a registered data set.

    Returns:
        The metrics, as `build_evaluator`'s evaluators give them.

    Raises:
        FileNotFoundError, UserError: something is missing, broken, or contradicts the data set.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    for kind, switch in _SWITCHES.items():
        cfg.MODEL.MASK_FORMER.TEST[switch] = kind in results
    records = load_records(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    possible = {task.switch for task in annotated_tasks(dataset_name)}
    if not possible & {_SWITCHES[kind] for kind in results}:
        kinds = [kind for kind, switch in _SWITCHES.items() if switch in possible]
        raise UserError(
            f"The results are {' and '.join(results)} ({listed(list(results.values()))}), but "
            f"the ground truth, {dataset_name}, is annotated for {' and '.join(kinds)}."
        )
    evaluators = build_evaluator(cfg, dataset_name).evaluators
    metrics: dict[str, Any] = {}
    scored = set()
    for evaluator in evaluators:
        if isinstance(evaluator, PanopticEvaluator):
            kind = "panoptic"
            _process(evaluator, records, SavedPanoptic(results[kind], metadata))
        elif isinstance(evaluator, SemanticEvaluator):
            kind = "semantic"
            _process(evaluator, records, SavedSemantic(results[kind], metadata))
        elif isinstance(evaluator, InstanceEvaluator):
            kind = "instances"
            evaluator.add(
                read_instance_results(results[kind], evaluator.images, evaluator.categories)
            )
        else:
            continue
        scored.add(kind)
        metrics |= evaluator.evaluate()
    if left := sorted(results.keys() - scored):
        logger.warning("Not scored, for want of ground truth in COCO's formats: %s", listed(left))
    return metrics


def _process(
    evaluator: DatasetEvaluator, records: Sequence[Record], saved: SavedPanoptic | SavedSemantic
) -> None:
    found = [record for record in records if record in saved]
    if not found:
        raise UserError(
            f"{saved.file} has no prediction for any image of the ground truth: it has "
            f"{listed(list(saved.keys()), 3)}. (The demo numbers images, unless --image-ids says "
            "which ids they have.)"
        )
    if others := saved.unused(found):
        logger.warning("Not scored: %d images that the ground truth lacks.", len(others))
    for record in tqdm(found, unit="image", disable=None):
        evaluator.process([dict(record)], [saved[record]])
