"""What every data set has to stand: a training step, and its ground truth as a prediction."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin
from detectron2.structures import BitMasks, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from mask_former.data import build_train_loader, check_classes
from mask_former.evaluation import build_evaluator
from mask_former.meta_arch import MaskFormer
from tests.engine.tiny import tiny_cfg

MAPPERS = {"SEMANTIC_ON": "semantic", "PANOPTIC_ON": "panoptic", "INSTANCE_ON": "instance"}


def empty_catalogs(monkeypatch) -> None:
    """Forget all data sets until the end of the test: names can be registered in other folders."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def register_detectron2(root: Path) -> None:
    """Register Detectron2's own COCO and Cityscapes in `root`."""
    builtin.register_all_coco(str(root))
    builtin.register_all_cityscapes(str(root))
    builtin.register_all_cityscapes_panoptic(str(root))


def cfg_of(name: str, num_classes: int, tmp_path: Path, *switches: str, ignore_value: int = 255):
    """A config of a tiny model for a data set; the mapper is that of the first of the outputs."""
    return tiny_cfg(
        tmp_path / "output",
        DATASETS__TRAIN=(name,),
        DATASETS__TEST=(name,),
        INPUT__DATASET_MAPPER_NAME=f"mask_former_{MAPPERS[switches[0]]}",
        INPUT__MIN_SIZE_TRAIN=(32,),
        MODEL__SEM_SEG_HEAD__NUM_CLASSES=num_classes,
        MODEL__SEM_SEG_HEAD__IGNORE_VALUE=ignore_value,
        SOLVER__IMS_PER_BATCH=1,
        **{f"MODEL__MASK_FORMER__TEST__{switch}": switch in switches for switch in MAPPERS},
    )


def train_step(cfg) -> dict[str, Any]:
    """Check and load the data set, and train a step; returns the sample that it trained on."""
    check_classes(cfg, cfg.DATASETS.TRAIN[0])
    torch.manual_seed(0)
    batch = next(iter(build_train_loader(cfg)))
    model = MaskFormer(cfg).train()
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    return batch[0]


def evaluate(
    cfg, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda output: output
) -> dict[str, dict[str, float]]:
    """The figures when the ground truth, changed by `change`, is the prediction."""
    name = cfg.DATASETS.TEST[0]
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    things = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id", {}).values()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [change(ground_truth(record, num_classes, things))])
    return evaluator.evaluate()


def ground_truth(
    record: dict[str, Any], num_classes: int, things: Collection[int]
) -> dict[str, Any]:
    """A record's annotations in the format of the model's output, without crowds."""
    output = {}
    if "sem_seg_file_name" in record:
        labels = read(record["sem_seg_file_name"])
        output["sem_seg"] = one_hot(labels, num_classes)
    if "pan_seg_file_name" in record:
        red, green, blue = np.moveaxis(read(record["pan_seg_file_name"]).astype(np.int32), -1, 0)
        ids = torch.from_numpy(red + 256 * green + 65536 * blue)
        segments = [s for s in record["segments_info"] if not s.get("iscrowd")]
        masks = {segment["id"]: ids == segment["id"] for segment in segments}
        output["panoptic_seg"] = sum(id_ * mask for id_, mask in masks.items()), segments
        output["instances"] = instances(
            ids.shape,
            [(s["category_id"], masks[s["id"]]) for s in segments if s["category_id"] in things],
        )
    if "annotations" in record:
        size = record["height"], record["width"]
        masks = [
            (a["category_id"], torch.from_numpy(decode(a["segmentation"], size)))
            for a in record["annotations"]
            if not a.get("iscrowd")
        ]
        output["instances"] = instances(size, masks)
    return output


def one_hot(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """Scores (K, H, W) of labels (H, W); what is ignored gets class 0."""
    return torch.stack([torch.from_numpy(labels == k) for k in range(num_classes)]).float()


def instances(size: Iterable[int], found: list[tuple[int, torch.Tensor]]) -> Instances:
    masks = torch.stack([mask for _, mask in found])
    return Instances(
        tuple(size),
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.tensor([class_id for class_id, _ in found]),
        scores=torch.full((len(found),), 0.9),
    )


def decode(segmentation: list | dict, size: tuple[int, int]) -> np.ndarray:
    """A mask, bool (H, W), of polygons or run lengths."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(segmentation).astype(bool)


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    """Write an image file, and its folders; palette images with mode "P"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image.save(path)


def picture(height: int, width: int) -> np.ndarray:
    """An image of noise, uint8 (H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
