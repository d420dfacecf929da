"""DeepLab's polynomial schedule of the learning rate, down to a rate that need not be 0."""

from typing import Any

from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch.optim import Optimizer


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
