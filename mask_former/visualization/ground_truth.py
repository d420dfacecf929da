"""Drawing the annotation of a record like a prediction."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import Instances

from mask_former.data.classes import class_names
from mask_former.data.records import read_annotations, read_id_map, read_label_map
from mask_former.data.targets import instance_target
from mask_former.visualization.draw import draw_instances, draw_panoptic, draw_semantic


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
        ignore_label = metadata.get("ignore_label", 255)
        label_map = read_label_map(record, size, num_classes, ignore_label)
        return draw_semantic(image, label_map, metadata, **options)
    annotations = read_annotations(record, size, num_classes)
    target = instance_target(annotations, NoOpTransform(), size)
    instances = Instances(size, pred_masks=target.masks.tensor, pred_classes=target.labels)
    return draw_instances(image, instances, metadata, **options)
