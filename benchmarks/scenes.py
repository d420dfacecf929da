"""Annotated images without the images: panoptic maps of smooth blobs, and predictions near them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.data.coco_format import encode_ids, shape_info

IGNORED = 255
"""No class: of 256 and more it is one, which then is ignored."""


@dataclass(frozen=True)
class Scenes:
    """A registered data set and the predictions for it.

    Attributes:
        panoptic, semantic: names of the data set in Detectron2's catalog.
        folder: with `gt.json` and `pred.json` in COCO's panoptic format, and the maps in `gt` and
            `pred`.
        records: of the images.
        segmentations: predicted map, int32 (H, W), and segments, of each image.
        labels: predicted classes of each image, int64 (H, W).
    """

    panoptic: str
    semantic: str
    folder: Path
    records: list[dict[str, Any]]
    segmentations: list[tuple[torch.Tensor, list[dict[str, Any]]]]
    labels: list[torch.Tensor]

    def outputs(self) -> list[dict[str, Any]]:
        """What a panoptic model returns; evaluators may change it."""
        return [
            {"panoptic_seg": (id_map, [dict(segment) for segment in segments])}
            for id_map, segments in self.segmentations
        ]


def make_scenes(
    folder: Path,
    *,
    images: int,
    size: tuple[int, int] = (480, 640),
    segments: int = 12,
    classes: int = 133,
) -> Scenes:
    """Make them up: nine of ten pixels are predicted right, void and crowds are among them.

    Args:
        folder: where the annotations are written.
        images: how many.
        size: height and width.
        segments: of an image.
        classes: the first 3/5 are things.
    """
    rng = np.random.default_rng(0)
    things = classes * 3 // 5
    for name in ("gt", "pred", "semantic"):
        (folder / name).mkdir(parents=True)
    records, segmentations, labels = [], [], []
    annotations: dict[str, list] = {"gt": [], "pred": []}
    for image_id in range(images):
        # Which segment each pixel is of; 0 is void.
        fields = _fields(rng, segments + 1, size)
        gt = fields.argmax(axis=0)
        pred = (fields + 0.3 * _fields(rng, segments + 1, size)).argmax(axis=0)
        gt_class = rng.integers(0, classes, segments + 1)
        wrong = rng.random(segments + 1) < 0.2
        pred_class = np.where(wrong, rng.integers(0, classes, segments + 1), gt_class)
        crowd = (rng.random(segments + 1) < 0.1) & (gt_class < things)
        gt_ids = np.append(0, rng.choice(256**3 - 1, segments, replace=False) + 1)
        pred_ids = np.arange(segments + 1)

        name = f"{image_id}.png"
        semantic = np.where(gt == 0, IGNORED, gt_class[gt]).astype(np.uint16)
        if classes < IGNORED:
            semantic = semantic.astype(np.uint8)
        # With PIL, as COCO's were made.
        Image.fromarray(semantic).save(folder / "semantic" / name)
        Image.fromarray(encode_ids(gt_ids[gt])).save(folder / "gt" / name)
        Image.fromarray(encode_ids(pred_ids[pred])).save(folder / "pred" / name)

        entry = {"image_id": image_id, "file_name": name}
        gt_infos = _infos(gt, gt_ids, gt_class, crowd)
        pred_infos = _infos(pred, pred_ids, pred_class, np.zeros_like(crowd))
        annotations["gt"].append({**entry, "segments_info": gt_infos})
        annotations["pred"].append({**entry, "segments_info": pred_infos})
        records.append(
            {
                "file_name": f"{image_id}.jpg",
                "image_id": image_id,
                "sem_seg_file_name": str(folder / "semantic" / name),
                "pan_seg_file_name": str(folder / "gt" / name),
                "segments_info": gt_infos,
            }
        )
        for info in pred_infos:
            info["isthing"] = info["category_id"] < things
        segmentations.append((torch.from_numpy(pred.astype(np.int32)), pred_infos))
        labels.append(torch.from_numpy(pred_class[pred]))
    _write_json(folder, annotations, classes, things, size)
    return Scenes(*_register(folder, records, classes, things), folder, records, segmentations,
                  labels)  # fmt: skip


def _infos(
    index: np.ndarray, ids: np.ndarray, of_class: np.ndarray, crowd: np.ndarray
) -> list[dict[str, Any]]:
    """The segments of a map for COCO's JSON; `index` is of each pixel."""
    return [
        {
            "id": int(ids[i]),
            "category_id": int(of_class[i]),
            "iscrowd": int(crowd[i]),
            **shape_info(index == i),
        }
        for i in np.unique(index[index > 0])
    ]


def _fields(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Smooth random fields; where one is the largest is a blob, about a quarter of a side wide."""
    coarse = rng.standard_normal((count, 7, 8), dtype=np.float32)
    return np.stack([cv2.resize(c, size[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse])


def _write_json(
    folder: Path, annotations: dict[str, list], classes: int, things: int, size: tuple[int, int]
) -> None:
    images = [
        {"id": gt["image_id"], "file_name": f"{gt['image_id']}.jpg", "height": size[0],
         "width": size[1]}
        for gt in annotations["gt"]
    ]  # fmt: skip
    categories = [{"id": k, "name": f"{k}", "isthing": int(k < things)} for k in range(classes)]
    for kind, found in annotations.items():
        content = {"images": images, "annotations": found, "categories": categories}
        (folder / f"{kind}.json").write_text(json.dumps(content))


def _register(folder: Path, records: list[dict], classes: int, things: int) -> tuple[str, str]:
    names = f"{folder}_panoptic", f"{folder}_semantic"
    for name in names:
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            stuff_classes=[f"{k}" for k in range(classes)], ignore_label=IGNORED
        )
    MetadataCatalog.get(names[0]).set(
        thing_dataset_id_to_contiguous_id={k: k for k in range(things)},
        stuff_dataset_id_to_contiguous_id={k: k for k in range(things, classes)},
        panoptic_json=str(folder / "gt.json"),
        panoptic_root=str(folder / "gt"),
    )
    return names
