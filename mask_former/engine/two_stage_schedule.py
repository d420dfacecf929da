"""EoMT's schedule of the learning rate (arXiv:2503.19108, appendix A): the backbone waits until the
rest has warmed up."""

from detectron2.config import CfgNode
from detectron2.solver import LRScheduler
from torch.optim import Optimizer

from mask_former.errors import UserError

NAME = "TwoStageWarmupPolyLR"
# What groups of the optimizer have that are of the backbone; see `optimizer.param_groups`.
IN_BACKBONE = "in_backbone"


class TwoStageWarmupPolyLR(LRScheduler):
    """A linear warm-up to each group's rate, from there a polynomial to 0 at the end; in groups of
    the backbone all that begins after the warm-up of the others, and the rate is 0 before.

    Args:
        optimizer: its groups of the backbone say so under `IN_BACKBONE`.
        max_iters: number of iterations.
        warmup_iters, backbone_warmup_iters: how long each of the two warms up.
        warmup_factor: share of the rate at the start of a warm-up.
        power: of the polynomial.
        least: share of the rate below which it never falls after the warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        max_iters: int,
        warmup_iters: int,
        backbone_warmup_iters: int,
        warmup_factor: float = 0.0,
        power: float = 0.9,
        least: float = 0.0,
    ) -> None:
        self.max_iters = max_iters
        self.warmup_iters = warmup_iters
        self.backbone_warmup_iters = backbone_warmup_iters
        self.warmup_factor = warmup_factor
        self.power = power
        self.least = least
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
            share = done / warmup
            return self.warmup_factor * (1 - share) + share
        rest = max(self.max_iters - start - warmup, 1)
        return max(max(1 - (done - warmup) / rest, 0.0) ** self.power, self.least)


def two_stage_warmup_poly(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule that SOLVER describes.

    Raises:
        UserError: SOLVER.WARMUP_METHOD is another one.
    """
    solver = cfg.SOLVER
    if solver.WARMUP_METHOD != "linear":
        raise UserError(
            f"SOLVER.WARMUP_METHOD is {solver.WARMUP_METHOD!r}, but {NAME} knows only 'linear'."
        )
    return TwoStageWarmupPolyLR(
        optimizer,
        max_iters=solver.MAX_ITER,
        warmup_iters=solver.WARMUP_ITERS,
        backbone_warmup_iters=solver.BACKBONE_WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        power=solver.POLY_LR_POWER,
        least=solver.POLY_LR_CONSTANT_ENDING,
    )
