"""Orders of operations that are equal but for rounding: the published one and the fastest.

Modules that know both have an attribute `published_rounding`, which is True by default.
"""

import torch
from torch import Tensor, nn


def keeps_published_rounding(module: nn.Module, x: Tensor) -> bool:
    """Whether `module` is to compute on the device of `x` in the order of the published models.

    Mixed precision rounds otherwise in any order, so that there modules take the fastest always.
    """
    kind = x.device.type
    # The "meta" device, of shapes without values, has no autocast.
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return module.published_rounding and not mixed
