"""The image processors of `transformers`: how images come to a model."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from mask_former.checkpoint.hugging_face.mapping import Keys, require

logger = logging.getLogger(__name__)

_FIXED = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
# ImageNet's, the defaults of their image processors.
_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_STD = [0.229, 0.224, 0.225]
_NO_LIMIT = 100000  # of the longer side, as in the recipes of EoMT


def input_keys(processor: Mapping[str, Any]) -> Keys:
    """Our keys for what a `preprocessor_config.json` holds. A size that does not keep the shape of
    images is left out, which is logged.

    Raises:
        UserError: images are not normalised as here; names the key.
    """
    require(_FIXED, {**_FIXED, **processor})
    size = processor.get("size") or {}
    if isinstance(size, int):  # before transformers 4.27
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size", 1333)}
    mean = processor.get("image_mean", _IMAGENET_MEAN)
    std = processor.get("image_std", _IMAGENET_STD)
    keys = {
        # The published keys have three decimals; a product of floats has noise behind them.
        "MODEL.PIXEL_MEAN": [round(255 * x, 6) for x in mean],
        "MODEL.PIXEL_STD": [round(255 * x, 6) for x in std],
    }
    if "shortest_edge" in size:
        keys["INPUT.MIN_SIZE_TEST"] = size["shortest_edge"]
        # transformers 5 writes no key for what is None.
        keys["INPUT.MAX_SIZE_TEST"] = size.get("longest_edge") or _NO_LIMIT
    if processor.get("do_resize") is False:
        keys["INPUT.MIN_SIZE_TEST"] = 0  # as the image is
    elif size and "shortest_edge" not in size:
        logger.warning(
            "The image processor's size %s is left out: it does not keep the shape of images, as "
            "INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST do. Set these.",
            dict(size),
        )
    return keys


def processor_config(cfg: CfgNode, kind: str) -> Keys:
    """What all of their `preprocessor_config.json` hold.

    Args:
        kind: the class of the image processor.
    """
    return {
        "image_processor_type": kind,
        **_FIXED,
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
        "do_resize": cfg.INPUT.MIN_SIZE_TEST > 0,
        "size": {
            "shortest_edge": cfg.INPUT.MIN_SIZE_TEST,
            "longest_edge": cfg.INPUT.MAX_SIZE_TEST,
        },
    }
