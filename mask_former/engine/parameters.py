"""Parameters chosen by patterns of their names: those that are frozen, or learn at another rate."""

import difflib
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # every BatchNorm, and SyncBatchNorm

from mask_former.errors import UserError, listed

FREEZE = "MODEL.FREEZE"
RATES = "SOLVER.LR_FACTORS"

logger = logging.getLogger(__name__)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let no parameter of `model` learn whose name has one of the patterns, which is MODEL.FREEZE.

    A batch norm that is frozen normalizes by its running statistics, in training as in evaluation,
    and does not change them. Dropout and stochastic depth stay as they are.

    Args:
        model: changed in place.
        patterns: regular expressions, searched in the full names.

    Raises:
        UserError: no parameter has a name like a pattern, or none is left to learn.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        for name in names_like(pattern, list(parameters), FREEZE):
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"{FREEZE} {list(patterns)} leaves no parameter to train.")
    if any(_is_frozen_norm(module) for module in model.modules()):
        # At every forward pass, as `train()` sets the mode of all modules.
        model.register_forward_pre_hook(_keep_statistics)


def _keep_statistics(model: nn.Module, _: Any) -> None:
    for module in model.modules():
        if _is_frozen_norm(module):
            module.eval()


def _is_frozen_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return isinstance(module, _BatchNorm) and own != [] and not any(p.requires_grad for p in own)


def frozen_parts(model: nn.Module, name: str = "") -> list[str]:
    """Names of the largest modules without a parameter that learns, and of frozen parameters
    outside of them."""
    if name and all(not parameter.requires_grad for parameter in model.parameters()):
        return [name]
    prefix = f"{name}." if name else ""
    own = model.named_parameters(prefix=name, recurse=False)
    parts = [full for full, parameter in own if not parameter.requires_grad]
    for child, module in model.named_children():
        if any(True for _ in module.parameters()):
            parts += frozen_parts(module, prefix + child)
    return parts


def warn_of_random_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Log which weights of a model that starts from random ones stay what they are."""
    keys = cfg.MODEL
    loaded = keys.WEIGHTS or keys.TIMM.PRETRAINED or keys.VIT.PRETRAINED
    if not loaded and (frozen := frozen_parts(model)):
        logger.warning(
            f"No weights are loaded, and what is frozen stays random: {listed(frozen, 5)}. To "
            f"train from scratch, set MODEL.BACKBONE.FREEZE_AT to 0 and {FREEZE} to []; to train "
            "from pretrained weights, name them in MODEL.WEIGHTS."
        )


def rate_factors(
    parameters: Iterable[tuple[str, nn.Parameter]], factors: Sequence[tuple[str, float]]
) -> dict[str, float]:
    """What the learning rates of parameters are multiplied by, by SOLVER.LR_FACTORS.

    Args:
        parameters: all of a model, with their names.
        factors: pairs of a regular expression, searched in the full names, and a factor above 0.
            Where several find a name, their product counts.

    Returns:
        the factors that are not 1, by name.

    Raises:
        UserError: no parameter that learns has a name like a pattern.
    """
    learns = {name: parameter.requires_grad for name, parameter in parameters}
    found: dict[str, float] = {}
    for pattern, factor in factors:
        names = [name for name in names_like(pattern, list(learns), RATES) if learns[name]]
        if not names:
            raise UserError(
                f"{RATES}: all parameters with names like '{pattern}' are frozen, by {FREEZE} or "
                "MODEL.BACKBONE.FREEZE_AT."
            )
        found |= {name: found.get(name, 1.0) * factor for name in names}
    return found


def names_like(pattern: str, names: Sequence[str], key: str) -> list[str]:
    """The names in which `pattern`, a regular expression and a value of `key`, is found.

    Raises:
        UserError: there is none; says which names are near.
    """
    found = [name for name in names if re.search(pattern, name)]
    if found:
        return found
    # Of names such as a.b.weight also the modules, a.b and a, which are what people name.
    parts = dict.fromkeys(
        ".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)
    )
    text = re.sub(r"\\(.)", r"\1", pattern).strip("^$.*")
    # Compared by the last words too: a middle part is near as well as a whole name.
    words = text.count(".") + 1
    tails: dict[str, str] = {}
    for part in parts:
        tails.setdefault(".".join(part.split(".")[-words:]), part)
    near = difflib.get_close_matches(text, tails, n=3, cutoff=0.0)
    raise UserError(
        f"{key}: no parameter has a name like '{pattern}', a regular expression. Near are "
        f"{listed([tails[tail] for tail in near])}."
    )
