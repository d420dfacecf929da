"""Drawing the annotations of records like predictions."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import Instances

from mask_former.data.classes import class_names, ignored_label
from mask_former.data.reading import read_image
from mask_former.data.records import read_annotations, read_id_map, read_label_map
from mask_former.data.targets import instance_target
from mask_former.visualization.draw import draw_instances, draw_panoptic, draw_semantic
from mask_former.visualization.sheet import make_sheet
from mask_former.visualization.text import draw_text, text_mask

_NAME_SIZE = 13


def draw_ground_truth(
    image: np.ndarray, record: Mapping[str, Any], metadata: Metadata, **options: Any
) -> np.ndarray:
    """Draw the annotation of a record: panoptic, else semantic, else instances.

    Args:
        image: the record's image, uint8 (H, W, 3), BGR.
        record: an entry of a registered data set.
        metadata: Detectron2's `Metadata` of that data set.
        options: `scale` and `labels`, as in `draw_panoptic`.

    Raises:
        FileNotFoundError, UserError: the annotation is missing, damaged or does not fit.
    """
    size = (image.shape[0], image.shape[1])
    num_classes = len(class_names(metadata))
    if "pan_seg_file_name" in record:
        id_map = read_id_map(record, size, num_classes)
        return draw_panoptic(image, id_map, record["segments_info"], metadata, **options)
    if "sem_seg_file_name" in record:
        label_map = read_label_map(record, size, num_classes, ignored_label(metadata))
        return draw_semantic(image, label_map, metadata, **options)
    annotations = read_annotations(record, size, num_classes)
    parts = []
    for crowd in (False, True):
        chosen = [{**a, "iscrowd": 0} for a in annotations if bool(a.get("iscrowd")) == crowd]
        target = instance_target(chosen, NoOpTransform(), size)
        labels = target.labels
        parts.append(
            Instances(
                size,
                pred_masks=target.masks.tensor,
                pred_classes=labels,
                iscrowd=torch.full_like(labels, crowd, dtype=torch.bool),
            )
        )
    return draw_instances(image, Instances.cat(parts), metadata, **options)


def ground_truth_sheet(
    records: Sequence[Mapping[str, Any]],
    metadata: Metadata,
    title: str,
    *,
    exif: bool = True,
    across: int = 4,
    width: int = 400,
) -> np.ndarray:
    """A contact sheet of annotated images, with their file names.

    Args:
        records: of a registered data set; at least one.
        metadata: as in `draw_ground_truth`.
        title: stands above.
        exif: whether the orientation of EXIF is applied to images.
        across: pictures side by side.
        width: of a picture in pixels; none is higher than that.

    Returns:
        The sheet, uint8 (height, width, 3), BGR.

    Raises:
        FileNotFoundError, ValueError: as `draw_ground_truth`.
    """
    files = [str(record["file_name"]) for record in records]
    # Below the folder that all have in common, in case that several have files of one name.
    common = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    cells = []
    for record, file in zip(records, files, strict=True):
        image = read_image(file, "BGR", exif=exif)
        scale = width / max(image.shape[:2])
        picture = draw_ground_truth(image, record, metadata, scale=scale)
        cells.append([_with_name(picture, os.path.relpath(file, common), width)])
    sheet = make_sheet(cells, [""], across=across)
    return make_sheet([[sheet]], [title])


def _with_name(picture: np.ndarray, name: str, width: int) -> np.ndarray:
    """The picture in the middle of a strip of the given width, over its name."""
    text = text_mask(name, _NAME_SIZE)[:, :width]
    cell = np.full((picture.shape[0] + text.shape[0], width, 3), 255, np.uint8)
    left = (width - picture.shape[1]) // 2
    cell[: picture.shape[0], left : left + picture.shape[1]] = picture
    draw_text(cell, text, (width - text.shape[1]) // 2, picture.shape[0], (60, 60, 60))
    return cell
