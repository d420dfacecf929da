"""An image with annotations of all kinds, and mappers for it."""

import numpy as np

from mask_former.data.mapper import MaskFormerDatasetMapper

HEIGHT, WIDTH, CLASSES = 24, 36, 5


def label_map():
    """Classes: 0 above, 3 below, a square of 1, another of 4 in the right corner, some void."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    labels[14:] = 3
    labels[4:10, 5:12] = 1
    labels[16:24, 28:36] = 4
    labels[:2, 20:] = 255
    return labels


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def mapper(cfg, name, is_train=True):
    cfg.INPUT.DATASET_MAPPER_NAME = name
    return MaskFormerDatasetMapper(cfg, is_train=is_train)
