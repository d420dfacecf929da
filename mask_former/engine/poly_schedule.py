"""Polynomial schedules of the learning rate, down to a rate that need not be 0: DeepLab's, and that
of EoMT (arXiv:2503.19108, appendix A), whose backbone waits until the rest has warmed up."""

from typing import Any

from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import LRScheduler
from torch.optim import Optimizer

# What groups of the optimizer have that are of the backbone; see `optimizer.param_groups`.
IN_BACKBONE = "in_backbone"


class WarmupPolyLRToEnd(WarmupPolyLR):
    """Every group's rate falls in proportion: rate (e + (1 - e) (1 - iteration / max_iters)^power).

    Args:
        end_factor: e, the share of the rate that is left at the end, in [0, 1]; 0: DeepLab's.
        options: of Detectron2's `WarmupPolyLR`.
    """

    def __init__(
        self, optimizer: Optimizer, max_iters: int, *, end_factor: float = 0.0, **options: Any
    ) -> None:
        self.end_factor = end_factor
        super().__init__(optimizer, max_iters, **options)

    def get_lr(self) -> list[float]:
        share = 1 - self.end_factor
        return [
            base * self.end_factor + rate * share
            for base, rate in zip(self.base_lrs, super().get_lr(), strict=True)
        ]


class TwoStageWarmupPolyLR(LRScheduler):
    """A warm-up to each group's rate, and from its end on a polynomial; in groups of the backbone
    all that begins after the warm-up of the others, and the rate is 0 before.

    Args:
        optimizer: its groups of the backbone say so under `IN_BACKBONE`.
        max_iters: number of iterations.
        warmup_iters, backbone_warmup_iters: how long each of the two warms up.
        warmup_factor: share of the rate at the start of a warm-up.
        warmup_method: linear, or constant: at that share.
        power: of the polynomial.
        end_factor: share of the rate that is left at the end, in [0, 1].
        constant_ending: share of the rate below which the polynomial never falls.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        max_iters: int,
        warmup_iters: int,
        backbone_warmup_iters: int,
        warmup_factor: float = 0.0,
        warmup_method: str = "linear",
        power: float = 0.9,
        end_factor: float = 0.0,
        constant_ending: float = 0.0,
    ) -> None:
        self.max_iters = max_iters
        self.warmup_iters = warmup_iters
        self.backbone_warmup_iters = backbone_warmup_iters
        self.warmup_factor = warmup_factor
        self.warmup_method = warmup_method
        self.power = power
        self.end_factor = end_factor
        self.constant_ending = constant_ending
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        others = self._factor(0, self.warmup_iters)
        backbone = self._factor(self.warmup_iters, self.backbone_warmup_iters)
        groups = zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        return [rate * (backbone if group.get(IN_BACKBONE) else others) for rate, group in groups]

    def _factor(self, start: int, warmup: int) -> float:
        done = self.last_epoch - start
        if done < 0:
            return 0.0
        if done < warmup:
            share = done / warmup if self.warmup_method == "linear" else 0.0
            return self.warmup_factor * (1 - share) + share
        rest = max(self.max_iters - start - warmup, 1)
        left = max(1 - (done - warmup) / rest, 0.0) ** self.power
        return self.end_factor + (1 - self.end_factor) * max(left, self.constant_ending)
