"""The optimizer and the learning rate's schedule, as the paper trains (section 4.1, appendix A)."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers.batch_norm import LayerNorm as ChannelsFirstLayerNorm
from detectron2.solver import LRScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # every BatchNorm and InstanceNorm
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, AdamW, Optimizer

from mask_former.engine.parameters import rate_factors
from mask_former.engine.poly_schedule import IN_BACKBONE, TwoStageWarmupPolyLR, WarmupPolyLRToEnd
from mask_former.errors import UserError, check_choice

BACKBONE = "backbone."
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, ChannelsFirstLayerNorm)

OPTIMIZERS = ("ADAMW", "SGD")
CLIP_TYPES = ("full_model", "norm", "value")
TWO_STAGE = "TwoStageWarmupPolyLR"
LR_SCHEDULERS = (
    "WarmupPolyLR",
    "WarmupMultiStepLR",
    "WarmupCosineLR",
    "WarmupStepWithFixedGammaLR",
    TWO_STAGE,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """SOLVER.OPTIMIZER over the trainable parameters of `model`, in the groups of `param_groups`.

    With SOLVER.CLIP_GRADIENTS.ENABLED, every `step` clips the gradients first; the training loop
    has nothing to do for it, with or without a GradScaler.

    Detectron2's SOLVER.BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS are not used: biases are treated like
    the weights beside them.

    Raises:
        UserError: unknown SOLVER.OPTIMIZER or SOLVER.CLIP_GRADIENTS.CLIP_TYPE; no layer has a name
            like SOLVER.LAYER_DECAY_PATTERN, or one of SOLVER.LR_FACTORS.
    """
    solver = cfg.SOLVER
    check_choice("SOLVER.OPTIMIZER", solver.OPTIMIZER, OPTIMIZERS)
    groups = param_groups(
        model,
        lr=solver.BASE_LR,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        layer_decay=solver.LAYER_DECAY,
        layer_pattern=solver.LAYER_DECAY_PATTERN,
        lr_factors=solver.LR_FACTORS,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        backbone_apart=solver.LR_SCHEDULER_NAME == TWO_STAGE,
    )
    # Fused: one kernel for all parameters, on GPUs and, 2 to 3 times as fast as the loop, on CPUs.
    if solver.OPTIMIZER == "ADAMW":
        optimizer = AdamW(groups, lr=solver.BASE_LR, fused=True)
    else:
        optimizer = SGD(
            groups,
            lr=solver.BASE_LR,
            momentum=solver.MOMENTUM,
            nesterov=solver.NESTEROV,
            # Not fused: that one takes infinite gradients for momentum where a GradScaler leaves
            # out the very first step, and the weights are lost (PyTorch 2.15).
        )

    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)

    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED:
        clip_gradients_before_step(optimizer, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)
    return optimizer


def _lay_out_as_weights(optimizer: Optimizer) -> None:
    """Give averages that were loaded the memory layout of their weights.

    A file has them as they lay where it was written, and MODEL.MEMORY_FORMAT auto is another layout
    on another machine. PyTorch's fused kernel for CPUs goes through memory, and would take the
    averages of other weights without a word.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    backbone_multiplier: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
    layer_decay: float = 1.0,
    layer_pattern: str = "",
    backbone_apart: bool = False,
    lr_factors: Sequence[tuple[str, float]] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters of `model`, grouped by learning rate and weight decay.

    Parameters under `backbone.` learn at `lr * backbone_multiplier`, times the factor of
    `layer_factors`; and any parameter times those of `lr_factors`, see `rate_factors`.
    Normalization layers decay by `weight_decay_norm`; embeddings, and what a module's
    `no_weight_decay()` names, such as its learned positions, by `weight_decay_embed`.

    Returns:
        Dicts with "params", "lr", "weight_decay", for a torch optimizer, and the "names" of the
        parameters, by which `fit_to_config` knows whether a saved state fits: it goes by position.
        The groups are as few as possible: each costs its own kernels. With `backbone_apart` those
        of the backbone hold nothing else, and say so.
    """
    groups: dict[tuple[float, float, bool], dict[str, nn.Parameter]] = {}
    factors = layer_factors(
        [name for name, _ in model.named_parameters()], layer_decay, layer_pattern
    )
    named_factors = rate_factors(model.named_parameters(), lr_factors)
    embeddings = _named_embeddings(model)
    for module, name, parameter in _trainable_parameters(model):
        rate = lr * backbone_multiplier if name.startswith(BACKBONE) else lr
        rate *= factors.get(name, 1.0) * named_factors.get(name, 1.0)
        decay = weight_decay
        if isinstance(module, NORMS):
            decay = weight_decay_norm
        elif isinstance(module, nn.Embedding) or name in embeddings:
            decay = weight_decay_embed
        apart = backbone_apart and name.startswith(BACKBONE)
        groups.setdefault((rate, decay, apart), {})[name] = parameter
    return [
        {"params": [*named.values()], "names": [*named], "lr": rate, "weight_decay": decay}
        | ({IN_BACKBONE: True} if apart else {})
        for (rate, decay, apart), named in groups.items()
    ]


def layer_factors(names: Sequence[str], decay: float, pattern: str) -> dict[str, float]:
    """Layer-wise decay of the learning rate (arXiv:2106.08254, section 3): what a layer's rate is
    multiplied by.

    The last layer has factor 1, each one before it `decay` times the factor of the next. What the
    backbone holds before its first layer, such as the embedding of patches, has that layer's.

    Args:
        names: of all parameters, in the model's order.
        decay: in (0, 1]; 1: all learn alike.
        pattern: a regular expression for the names of a layer's parameters, whose group is the
            layer's number.

    Returns:
        the factors that are not 1, by name.

    Raises:
        UserError: `decay` is out of range; below 1, and no name has the pattern.
    """
    if not 0 < decay <= 1:
        raise UserError(f"SOLVER.LAYER_DECAY is {decay}; it must be above 0, and at most 1.")
    if decay == 1:
        return {}
    matches = {name: match for name in names if (match := re.search(pattern, name))}
    if not matches:
        raise UserError(
            f"SOLVER.LAYER_DECAY is {decay}, but no parameter has a name like "
            f"SOLVER.LAYER_DECAY_PATTERN '{pattern}'. Set it to match the backbone's layers, or "
            "LAYER_DECAY to 1."
        )
    first = list(names).index(next(iter(matches)))
    numbers = {name: 0 for name in names[:first] if name.startswith(BACKBONE)}
    numbers |= {name: int(match[1]) for name, match in matches.items()}
    last = max(numbers.values())
    return {name: decay ** (last - number) for name, number in numbers.items() if number < last}


def _named_embeddings(model: nn.Module) -> set[str]:
    """Full names of the parameters that modules name by `no_weight_decay()`, as timm's do."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", set)()
    }


def _trainable_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every trainable parameter once, with the module that owns it and its full name."""
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield module, name, parameter


def clip_gradients_before_step(
    optimizer: Optimizer, clip_type: str, limit: float, norm_type: float = 2.0
) -> None:
    """Make every `step` of `optimizer` clip the gradients first.

    Args:
        optimizer: changed in place.
        clip_type: "full_model" limits the norm of all gradients taken together; "norm" that of
            each parameter's; "value" every single entry.
        limit: the largest norm, or the largest absolute value.
        norm_type: the p of the p-norm.

    Raises:
        UserError: unknown clip type.
    """
    check_choice("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type, CLIP_TYPES)

    def clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        # A GradScaler leaves the gradients of a fused optimizer scaled, and says here by how much.
        scale = getattr(optimizer, "grad_scale", None)
        if clip_type == "full_model":
            _clip_norm(params, limit, norm_type, scale)
        elif clip_type == "norm":
            for parameter in params:
                _clip_norm([parameter], limit, norm_type, scale)
        elif scale is None:
            clip_grad_value_(params, limit)
        else:
            bound = limit * scale
            for gradient in _gradients(params):
                gradient.clamp_(-bound, bound)

    optimizer.register_step_pre_hook(clip)


def _clip_norm(
    params: list[nn.Parameter], limit: float, norm_type: float, scale: Tensor | None
) -> None:
    if scale is None:
        clip_grad_norm_(params, limit, norm_type)
        return
    # PyTorch's limit is a number, for which the host would have to wait.
    norm = clip_grad_norm_(params, math.inf, norm_type)
    if gradients := _gradients(params):
        factor = (limit * scale / (norm + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, factor.to(gradients[0].device))


def _gradients(params: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """SOLVER.LR_SCHEDULER_NAME: DeepLab's poly schedule or EoMT's, which end at SOLVER.BASE_LR_END,
    or one of Detectron2's; step it once for every iteration.

    Raises:
        UserError: unknown SOLVER.LR_SCHEDULER_NAME; the rate would rise to BASE_LR_END; a warm-up
            of the backbone's own, which only EoMT's has.
    """
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    check_choice("SOLVER.LR_SCHEDULER_NAME", name, LR_SCHEDULERS)
    if solver.BACKBONE_WARMUP_ITERS and name != TWO_STAGE:
        raise UserError(
            f"SOLVER.BACKBONE_WARMUP_ITERS is {solver.BACKBONE_WARMUP_ITERS}, but {name} has no "
            "warm-up of the backbone's own: set it to 0, or SOLVER.LR_SCHEDULER_NAME to "
            f"{TWO_STAGE}."
        )
    if name not in ("WarmupPolyLR", TWO_STAGE):
        return build_detectron2_lr_scheduler(cfg, optimizer)
    if solver.BASE_LR_END > solver.BASE_LR:
        raise UserError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}, above SOLVER.BASE_LR {solver.BASE_LR}, "
            "from which the poly schedule falls."
        )
    options = {
        "max_iters": solver.MAX_ITER,
        "end_factor": solver.BASE_LR_END / solver.BASE_LR if solver.BASE_LR_END else 0.0,
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
        "warmup_method": solver.WARMUP_METHOD,
        "power": solver.POLY_LR_POWER,
        "constant_ending": solver.POLY_LR_CONSTANT_ENDING,
    }
    if name == TWO_STAGE:
        options["backbone_warmup_iters"] = solver.BACKBONE_WARMUP_ITERS
        return TwoStageWarmupPolyLR(optimizer, **options)
    return WarmupPolyLRToEnd(optimizer, **options)
