"""What the tests of the data sets share: a place of their own in the catalogs, a training step, and
ground truth as prediction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask_former.data.loader import build_test_loader, build_train_loader
from mask_former.data.reading import read_id_map, read_image
from mask_former.evaluation import build_evaluator
from tests.engine.tiny import tiny_cfg


@contextmanager
def registered(root: Path, *register: Callable[[Path], None]) -> Iterator[None]:
    """Data sets below `root` instead of those registered; as before at the end."""
    catalogs = (DatasetCatalog, MetadataCatalog)
    before = [dict(catalog.data) for catalog in catalogs]
    for catalog in catalogs:
        catalog.data.clear()
    try:
        for function in register:
            function(root)
        yield
    finally:
        for catalog, data in zip(catalogs, before, strict=True):
            catalog.data.clear()
            catalog.data.update(data)


def config(train: str, test: str, mapper: str, num_classes: int, **options: Any):
    """A config of a very small model on data sets of very small images."""
    return tiny_cfg(
        "unused",
        DATASETS__TRAIN=(train,),
        DATASETS__TEST=(test,),
        INPUT__DATASET_MAPPER_NAME=mapper,
        MODEL__SEM_SEG_HEAD__NUM_CLASSES=num_classes,
        **options,
    )


def train_a_step(cfg) -> dict[str, Any]:
    """Load a batch through the mapper and learn from it; returns its first sample."""
    batch = next(iter(build_train_loader(cfg)))
    model = build_model(cfg)
    loss = sum(model(batch).values())
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    return batch[0]


def evaluate(cfg, change: Callable[[dict[str, Any]], None] = lambda prediction: None) -> dict:
    """The figures of the ground truth, changed by `change`, as prediction on the test set."""
    (name,) = cfg.DATASETS.TEST
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    records = {record["file_name"]: record for record in DatasetCatalog.get(name)}
    for (sample,) in build_test_loader(cfg, name):
        prediction = truth(records[sample["file_name"]], cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        change(prediction)
        evaluator.process([sample], [prediction])
    return evaluator.evaluate()


def truth(record: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """The annotations of a record as the model's output."""
    size = read_image(record["file_name"], "RGB").shape[:2]
    output = {}
    if "sem_seg_file_name" in record:
        labels = read_image(record["sem_seg_file_name"], None).astype(np.int64)
        output["sem_seg"] = torch.stack(
            [torch.from_numpy(labels == label).float() for label in range(num_classes)]
        )
    if "pan_seg_file_name" in record:
        ids = torch.from_numpy(read_id_map(record, size, num_classes))
        segments = record["segments_info"]
        output["panoptic_seg"] = (
            ids,
            [
                {key: segment[key] for key in ("id", "category_id", "isthing")}
                for segment in segments
            ],
        )
        things = [segment for segment in segments if segment["isthing"]]
        output["instances"] = instances([ids == s["id"] for s in things], things, size)
    if "annotations" in record:
        masks = [
            torch.from_numpy(decode(annotation["segmentation"], size))
            for annotation in record["annotations"]
        ]
        output["instances"] = instances(masks, record["annotations"], size)
    return output


def decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    return coco_mask.decode(segmentation).astype(bool)


def instances(
    masks: list[torch.Tensor], segments: list[dict[str, Any]], size: tuple[int, int]
) -> Instances:
    stacked = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)
    return Instances(
        size,
        pred_masks=stacked,
        pred_boxes=BitMasks(stacked).get_bounding_boxes(),
        pred_classes=torch.tensor([s["category_id"] for s in segments], dtype=torch.int64),
        scores=torch.linspace(1, 0.5, len(segments)),
    )
