"""Images down to one pixel, and lines, through a whole training and evaluation."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.data.coco_format import encode_ids
from mask_former.data.datasets import register_instances, register_panoptic
from mask_former.engine import Trainer, argument_parser, check_run
from tests.backbone.training import MASK2FORMER
from tests.engine.tiny import tiny_cfg

SIZES = ((1, 1), (1, 2000), (2000, 1), (2, 3))
CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
NAME = "test_any_shape"


def write(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_set(folder, kind):
    """A cat fills the left half of every image, and all of the image of one pixel."""
    images, panoptic, instances = [], [], []
    for number, (height, width) in enumerate(SIZES):
        ids = np.full((height, width), 5)
        ids[:, (width + 1) // 2 :] = 7
        write(folder / "images" / f"{number}.png", np.full((height, width, 3), 40 * number))
        write(folder / "labels" / f"{number}.png", encode_ids(ids))
        write(folder / "classes" / f"{number}.png", ids == 7)
        name = f"{number}.png"
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        segments = [{"id": id_, "category_id": 1 + (id_ == 7)} for id_ in np.unique(ids).tolist()]
        panoptic.append({"image_id": number, "file_name": name, "segments_info": segments})
        polygon = [0, 0, (width + 1) // 2, 0, (width + 1) // 2, height, 0, height]
        instances.append({"image_id": number, "category_id": 1, "segmentation": [polygon]})
    annotations = panoptic if kind == "panoptic" else instances
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "x.json").write_text(json.dumps(content))
    return folder / "x.json"


@pytest.fixture(params=["panoptic", "instance"])
def kind(request, tmp_path):
    """A registered data set; the mapper and outputs for it."""
    path = write_set(tmp_path, request.param)
    common = {"image_root": tmp_path / "images"}
    if request.param == "panoptic":
        common |= {"panoptic_root": tmp_path / "labels", "sem_seg_root": tmp_path / "classes"}
        register_panoptic(NAME, panoptic_json=path, **common)
        outputs = {"PANOPTIC_ON": True, "SEMANTIC_ON": True}
    else:
        register_instances(NAME, json_file=path, **common)
        outputs = {"PANOPTIC_ON": False, "SEMANTIC_ON": False, "INSTANCE_ON": True}
    options = {f"MODEL__MASK_FORMER__TEST__{key}": value for key, value in outputs.items()}
    yield options | {"INPUT__DATASET_MAPPER_NAME": f"mask_former_{request.param}"}
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("model", [{}, MASK2FORMER], ids=["MaskFormer", "Mask2Former"])
def test_train_and_evaluate(tmp_path, kind, model):
    options = {
        # The tiny backbone does not pad; norms of single channels need two pixels.
        "MODEL__MASK_FORMER__SIZE_DIVISIBILITY": 64,
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 2,
        "INPUT__MIN_SIZE_TRAIN": (32,),
        "INPUT__MIN_SIZE_TEST": 32,
        "INPUT__MAX_SIZE_TRAIN": 128,
        "INPUT__MAX_SIZE_TEST": 128,
        "INPUT__CROP__ENABLED": True,
        "INPUT__COLOR_AUG_SSD": True,
        "SOLVER__MAX_ITER": 4,
    }
    options = {**model, **options, **kind, "DATASETS__TRAIN": (NAME,), "DATASETS__TEST": (NAME,)}
    cfg = tiny_cfg(tmp_path / "run", **options)
    check_run(cfg, argument_parser().parse_args([]))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    tasks = {"panoptic_seg": "PQ", "sem_seg": "mIoU"}
    if cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON:
        tasks = {"bbox": "AP", "segm": "AP"}
    assert results.keys() == tasks.keys()
    assert all(0 <= results[task][metric] <= 100 for task, metric in tasks.items())
