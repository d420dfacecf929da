"""Making a model of the package timm, which is imported only here and when one is wanted."""

import difflib
import logging
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor, nn

from mask_former.errors import DownloadError, UserError

logger = logging.getLogger(__name__)


def require_timm() -> ModuleType:
    """The package timm.

    Raises:
        UserError: it is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError(
            "This backbone is made by timm, which is not installed: run `pip install '.[timm]'` "
            "in MaskFormer's checkout, or `pip install timm`."
        ) from error
    return timm


def create_timm_model(
    name: str, key: str, *, pretrained: bool = False, in_chans: int = 3, **options: Any
) -> nn.Module:
    """A classifier of timm without its last layer.

    Args:
        name: as timm's, with or without the tag of its weights: `convnext_tiny.fb_in22k`.
        key: the config key that has the name, for messages.
        pretrained: load the weights that timm names, from its cache or the network. timm reads
            them without running anything.
        in_chans: channels of the images.
        options: of timm's constructor.

    Raises:
        UserError: timm is not installed, does not know the name or has no weights of it; the
            message has the nearest names.
        DownloadError: the weights are not in the cache and cannot be downloaded.
    """
    timm = require_timm()
    record = pretrained_cfg(name, key)
    if pretrained and not record.has_weights:
        raise UserError(f"{key}: timm has no pretrained weights of {name!r}. Set PRETRAINED False.")
    try:
        return timm.create_model(
            name, pretrained=pretrained, in_chans=in_chans, num_classes=0, **options
        )
    except OSError as error:
        raise DownloadError(
            f"{key}: the weights of {name!r} are not in timm's cache and cannot be downloaded "
            f"({type(error).__name__}). Download them where there is a network, and set "
            "MODEL.WEIGHTS to the file, and PRETRAINED False."
        ) from error


def pretrained_cfg(name: str, key: str) -> Any:
    """timm's record of a model: its weights' address, and what its images were normalized by.

    Raises:
        UserError: as `create_timm_model`.
    """
    models = require_timm().models
    architecture, _, tag = name.partition(".")
    if not models.is_model(architecture):
        known = models.list_models()
        raise UserError(f"{key} is {name!r}, which timm does not know; {_nearest(name, known)}.")
    if tag and not models.is_model_pretrained(name):
        known = models.list_pretrained(f"{architecture}.*")
        raise UserError(
            f"{key} is {name!r}, of which timm has no weights; {_nearest(name, known)}."
        )
    # A few models of timm have no record, and are made with these defaults.
    return models.get_pretrained_cfg(name) or models.PretrainedCfg()


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"the nearest are {', '.join(nearest)}" if nearest else "it has none of that model"


def check_pixel_statistics(cfg: CfgNode, name: str, key: str, *, pretrained: bool) -> None:
    """Compare MODEL.PIXEL_MEAN and PIXEL_STD with those that the images of a timm model had.

    A model that starts from random weights takes any.

    Raises:
        UserError: they differ, and the model starts from timm's weights. Where MODEL.WEIGHTS names
            a file, whose weights may be timm's or not, that is a warning.
    """
    if not (pretrained or cfg.MODEL.WEIGHTS):
        return
    record = pretrained_cfg(name, key)
    given = [list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)]
    # timm's are of RGB images with values in 0..1.
    order = 1 if cfg.INPUT.FORMAT == "RGB" else -1
    statistics = record.mean, record.std
    expected = [[round(255 * x, 3) for x in values][::order] for values in statistics]
    if [len(x) for x in given] == [3, 3] and np.allclose(given, expected, rtol=0, atol=0.5):
        return
    text = (
        f"MODEL.PIXEL_MEAN is {given[0]} and PIXEL_STD {given[1]}, but timm's weights of {name} "
        f"are for MODEL.PIXEL_MEAN {expected[0]} MODEL.PIXEL_STD {expected[1]} with INPUT.FORMAT "
        f"{cfg.INPUT.FORMAT}."
    )
    if not cfg.MODEL.WEIGHTS:
        raise UserError(text)
    logger.warning(f"{text} Change that if {cfg.MODEL.WEIGHTS} comes from timm.")


def weights_as_timm_reads_them(
    model: nn.Module, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights of a file under the names of `model`, one of timm's, and of its sizes.

    What timm does with the files that it downloads: it knows the names of the model's authors, and
    interpolates positions and patches of another size. Weights of something else stay as they are.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if convert is None or all(
        shapes.get(name) == tensor.shape for name, tensor in model.state_dict().items()
    ):
        return dict(weights)
    try:
        return convert(dict(weights), model)
    except Exception as error:  # It may be any file, and whether it fits is found out later.
        logger.info(f"timm does not convert the weights: {type(error).__name__}: {error}")
        return dict(weights)


def scales(module: nn.Module) -> set[str]:
    """Names of the parameters that only scale: of norms, timm's own included, and of layers."""
    return {
        name
        for name, parameter in module.named_parameters()
        if parameter.ndim <= 1 and not name.endswith("bias")
    }


def maps_by_name(model: nn.Module) -> dict[str, int]:
    """The name of each map of a stride that is a power of two -> its index; the deepest counts."""
    infos = model.feature_info if hasattr(model, "forward_intermediates") else []
    strides = [info["reduction"] for info in infos]
    return {f"res{s.bit_length() - 1}": i for i, s in enumerate(strides) if s & (s - 1) == 0}


def parameters_up_to(freeze_at: int, model: nn.Module, name: str) -> set[str]:
    """Names of the parameters of the stem (1) and of the stages up to that of `res{freeze_at}`.

    Raises:
        UserError: no stage of the model called `name` makes that map.
    """
    if freeze_at < 1:
        return set()
    # How deep each parameter lies, by the grouping that timm gives for learning rates by depth.
    depths = require_timm().models.group_parameters(
        model, model.group_matcher(coarse=True), reverse=True
    )
    last = min(depths.values())
    if freeze_at > 1:
        maps = maps_by_name(model)
        index = maps.get(f"res{freeze_at}")
        module = f"{model.feature_info[index]['module']}." if index is not None else ""
        stage = [depth for name, depth in depths.items() if module and name.startswith(module)]
        if not stage:
            raise UserError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but {name} has no stage that ends with "
                f"a map res{freeze_at}; 1 freezes the stem, 0 nothing."
            )
        last = max(stage)
    return {name for name, depth in depths.items() if depth <= last}
