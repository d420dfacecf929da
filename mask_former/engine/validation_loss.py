"""The validation loss: what a model would learn by, of images that it does not learn."""

import logging
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from mask_former.data.loader import build_loss_loader
from mask_former.data.random_state import preserved_random_state
from mask_former.data.validation_loss import loss_datasets
from mask_former.engine.evaluate import Results
from mask_former.engine.interruption import StoppableLoader, asked_anywhere
from mask_former.engine.step import at_test_precision, loss_modules, normalized_by
from mask_former.errors import UserError

TASK = "validation"
# Names such as loss_ce_0: most models compute these in training alone.
_OF_EARLIER_LAYER = re.compile(r"_\d+$")

logger = logging.getLogger(__name__)


def with_validation_loss(results: Results, cfg: CfgNode, model: nn.Module) -> Results:
    """`results`, of an evaluation, with the losses of the data sets of TEST.LOSS: as the task
    "validation", of each data set if there are several.

    The network is in evaluation mode, so that the losses are those of its final prediction alone,
    without dropout, at TEST.PRECISION. Each image is a batch of its own; a loss is the mean over
    the images, whatever the number of processes, and "total_loss" the sum of the losses. Where
    masks are compared at random points, an image always has the same.

    Returns:
        Nothing in all processes but the main one, and where a signal has stopped it.

    Raises:
        UserError: the model has no part whose losses can be computed.
    """
    if not cfg.TEST.LOSS.ENABLED:
        return results
    if not loss_modules(model):
        raise UserError(
            f"TEST.LOSS.ENABLED is True, but {type(model).__name__} does not say what its losses "
            "are divided by: give it a method normalize_by, as MaskFormer's, or set it to False."
        )
    run = at_test_precision(cfg, model)
    names = loss_datasets(cfg)
    for name in names:
        with preserved_random_state(), returns_losses(model), torch.no_grad():
            loader = StoppableLoader(build_loss_loader(cfg, name))
            own = [_losses(run, batch) for batch in loader]
        if asked_anywhere():
            return {}
        everyone = [losses for share in comm.gather(own) for losses in share]
        if comm.is_main_process():
            means = _means(everyone)
            text = ", ".join(f"{loss} {value:.4f}" for loss, value in means.items())
            logger.info(f"Validation loss of {name}: {text}")
            section = results if len(names) == 1 else results.setdefault(name, {})
            section[TASK] = means
    return results


def _losses(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, float]:
    torch.manual_seed(zlib.crc32(str(batch[0]["file_name"]).encode()))
    # Processes have different numbers of images, so that none can wait for the others.
    with normalized_by(model, batch, average=lambda value: value):
        losses = model(batch).items()
    return {name: loss.item() for name, loss in losses if not _OF_EARLIER_LAYER.search(name)}


def _means(images: list[dict[str, float]]) -> dict[str, float]:
    values = defaultdict(list)
    for losses in images:
        for name, value in losses.items():
            values[name].append(value)
    means = {name: math.fsum(column) / len(column) for name, column in values.items()}
    return {"total_loss": math.fsum(means.values()), **means}


@contextmanager
def returns_losses(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` is in evaluation mode but for the modules that choose between
    losses and results: the model itself, and those that compute losses."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module in (model, *loss_modules(model)):
        module.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
