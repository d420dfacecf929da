import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from mask_former.config import add_mask_former_config
from tests.data.annotated import CLASSES, HEIGHT, WIDTH, label_map, rectangle


@pytest.fixture
def record(tmp_path):
    """An image whose red channel is 50 times its label, with all three kinds of annotation."""
    labels = label_map()
    image = np.stack([np.where(labels == 255, 250, labels * 50), 0 * labels, 255 + 0 * labels], -1)
    ids = np.where(labels == 255, 0, 1000 * (labels + 1))
    coded = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
    for name, array in (("image", image), ("semantic", labels), ("panoptic", coded)):
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / f"{name}.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "image_id": 17,
        "height": HEIGHT,
        "width": WIDTH,
        "sem_seg_file_name": str(tmp_path / "semantic.png"),
        "pan_seg_file_name": str(tmp_path / "panoptic.png"),
        "segments_info": [
            {"id": 1000 * (k + 1), "category_id": k, "isthing": k in (1, 4)} for k in (4, 1, 0, 3)
        ],
        "annotations": [
            {"category_id": 4, "segmentation": [rectangle(28, 16, 36, 24)]},
            {"category_id": 1, "segmentation": [rectangle(5, 4, 12, 10)]},
        ],
    }


@pytest.fixture
def cfg():
    """Without any change of the image."""
    cfg = get_cfg()
    add_mask_former_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg
