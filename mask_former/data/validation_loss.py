"""The samples of which the validation loss is computed."""

from detectron2.config import CfgNode

from mask_former.data.augmentation import build_augmentation
from mask_former.data.mapper import MaskFormerDatasetMapper


def loss_datasets(cfg: CfgNode) -> tuple[str, ...]:
    """The data sets of the validation loss: TEST.LOSS.DATASETS, or those of the test; none unless
    TEST.LOSS.ENABLED."""
    names = cfg.TEST.LOSS.DATASETS or cfg.DATASETS.TEST
    return tuple(dict.fromkeys(names)) if cfg.TEST.LOSS.ENABLED else ()


def loss_mapper(cfg: CfgNode) -> MaskFormerDatasetMapper:
    """The training's ground truth of images that are resized as in a test, and not augmented."""
    augmentations = build_augmentation(cfg, is_train=False)
    return MaskFormerDatasetMapper(cfg, is_train=True, augmentations=augmentations)
