"""A trained model as a function of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import Metadata, MetadataCatalog
from torch import nn

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer, local_file
from mask_former.checkpoint.read import trained_classes
from mask_former.data.metadata import with_classes
from mask_former.data.reading import check_image_format
from mask_former.data.transforms import InferenceResize
from mask_former.engine.model import build_model
from mask_former.engine.setup import check_device
from mask_former.engine.sliding_window import with_sliding_window
from mask_former.engine.tta import with_test_time_augmentation
from mask_former.errors import UserError
from mask_former.precision import prepare

# The tasks in the order in which they are chosen when a config switches on several.
TASKS = {"panoptic": "PANOPTIC_ON", "semantic": "SEMANTIC_ON", "instance": "INSTANCE_ON"}


def select_task(cfg: CfgNode, task: str | None = None, threshold: float | None = None) -> str:
    """Switch on the inference of one task in `cfg`, and that of the others off.

    Args:
        cfg: changed in place.
        task: one of `TASKS`; by default the first of them that `cfg` switches on.
        threshold: the least confidence of a panoptic segment, in [0, 1]; None leaves cfg's.
            Instances come with their scores and are not filtered here.

    Returns:
        the task.

    Raises:
        UserError: no task is switched on, or a threshold for semantic segmentation, which labels
            every pixel.
    """
    test = cfg.MODEL.MASK_FORMER.TEST
    task = task or next((name for name, key in TASKS.items() if test[key]), None)
    if task is None:
        keys = ", ".join(TASKS.values())
        raise UserError(f"the config switches on none of MODEL.MASK_FORMER.TEST.{{{keys}}}")
    if threshold is not None and task == "semantic":
        raise UserError(
            "semantic segmentation labels every pixel and has no confidence threshold: leave it "
            "out, or choose the task panoptic or instance"
        )
    for name, key in TASKS.items():
        test[key] = name == task
    if threshold is not None and task == "panoptic":
        test.OBJECT_MASK_THRESHOLD = threshold
    return task


class DefaultPredictor:
    """Segments images, as the evaluation does: same resizing, same channel order.

    `DefaultPredictor(cfg)` builds the model and loads `cfg.MODEL.WEIGHTS`, as Detectron2's does; a
    model in memory is passed with `DefaultPredictor(model=...)`. The model is put into eval mode.
    Weights of a training know their classes, so that no data set is needed; for others the classes
    are those of the first of DATASETS.TEST.

    It gets images, not files: whoever reads them applies EXIF as the training does with
    `mask_former.data.reading.read_image(file, "BGR", exif=cfg.INPUT.EXIF_ORIENTATION)`.

    Args:
        model: a Detectron2 model; takes and returns lists of dictionaries.
        min_size, max_size: the image's shorter side is scaled to `min_size` pixels, unless the
            longer one would exceed `max_size`; `min_size` 0 leaves images as they are.
        input_format: channel order that the model expects, "RGB" or "BGR".
        metadata: Detectron2's `Metadata` of the classes that the model knows.
        autocast: lower precision for matrix products and convolutions, such as `torch.bfloat16`.

    Raises:
        UserError: the input format is unknown; from a cfg: no weights are named, or the model is
            to run on a GPU and there is none.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        min_size: int = 0,
        max_size: int = 1333,
        input_format: str = "RGB",
        metadata: Metadata | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_image_format(input_format)
        self.model = model.eval()
        self.metadata = Metadata() if metadata is None else metadata
        self._resize = InferenceResize([min_size, min_size], max_size)
        self._input_format = input_format
        self._autocast = autocast

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if not cfg.MODEL.WEIGHTS:
            raise UserError("MODEL.WEIGHTS is empty: name the file with the trained weights")
        check_device(cfg)
        file = local_file(cfg.MODEL.WEIGHTS)
        if classes := trained_classes(file):
            cfg = with_classes(cfg, classes, file)
        model = build_model(cfg)
        precision = prepare(cfg, model, training=False)
        MaskFormerCheckpointer(model, accept_backbone=False).load(cfg.MODEL.WEIGHTS)
        augment = with_test_time_augmentation if cfg.TEST.AUG.ENABLED else with_sliding_window
        model = augment(cfg, model)
        return {
            "model": model,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "input_format": cfg.INPUT.FORMAT,
            "metadata": MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None,
            "autocast": precision.dtype,
        }

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Segment one image, uint8 (H, W, 3) in OpenCV's order (BGR); the result has its size."""
        return self.batch([image])[0]

    @torch.inference_mode()
    def batch(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Segment several images, of any sizes, at once.

        Args:
            images: uint8 (H, W, 3) each, BGR.

        Returns:
            the model's output for each image, at that image's size.
        """
        inputs = [self._prepare(image) for image in images]
        device_type = next(self.model.parameters()).device.type
        with torch.autocast(device_type, self._autocast, enabled=self._autocast is not None):
            return self.model(inputs)

    def _prepare(self, image: np.ndarray) -> dict[str, Any]:
        if not isinstance(image, np.ndarray):
            raise UserError(
                f"an image is uint8 (H, W, 3), this one is {type(image).__name__}; cv2.imread "
                "gives None where there is no such file, or none that it can read"
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"an image is uint8 (H, W, 3), this one is {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        if self._input_format == "RGB":
            image = image[:, :, ::-1]
        image = self._resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}
