"""Training steps of ours and of the peers, with a clock for their parts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from benchmarks.models import plain_model
from benchmarks.peers.hugging_face import hugging_face_model
from benchmarks.peers.plain_losses import layer_losses, plain_matching
from benchmarks.predictions import prediction_of_masks
from mask_former.checkpoint.hugging_face import from_hugging_face
from mask_former.engine.optimizer import build_optimizer
from mask_former.precision import prepare
from mask_former.structures import Prediction, Target

PARTS = ("network forward", "matching", "losses", "backward", "optimizer")
Batch = list[dict[str, Any]]
Gradients = dict[str, Tensor]


class Clock:
    """Writes down how long the parts of every step take; a part within another counts once.

    On a GPU the host waits at the ends of the parts if `waits`; otherwise they mean nothing.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.waits = True
        self.steps: list[dict[str, float]] = []
        self._open: list[str] = []
        self._since = 0.0

    def new_step(self) -> None:
        self.steps.append(dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._lap()
        self._open.append(name)
        yield
        self._lap()
        self._open.pop()

    def _lap(self) -> None:
        if self.device == "cuda" and self.waits:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            self.steps[-1][self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def same_points() -> Iterator[None]:
    """All random points, of `torch.rand(..., P, 2)`, are the first P of one sequence: losses at
    points can be compared, whatever the order in which contenders ask for them."""
    random = torch.rand
    sequence = random(1 << 17, 2, generator=torch.Generator().manual_seed(0))

    def rand(*size: Any, device: Any = None, **options: Any) -> Tensor:
        if len(size) < 2 or size[-1] != 2:
            return random(*size, device=device, **options)
        return sequence[: size[-2]].to(device).repeat(*size[:-2], 1, 1)

    with mock.patch("torch.rand", rand):
        yield


class Step:
    """A training step, made at every call. Its parts are what a contender writes.

    Args:
        model: its parameters' gradients are what the step computes.
        amp_dtype: arithmetic of autocast; None: float32 throughout.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, clock: Clock, amp_dtype: torch.dtype | None
    ) -> None:
        self.model, self.optimizer, self.clock = model.train(), optimizer, clock
        self.autocast = torch.autocast(
            clock.device, dtype=amp_dtype or torch.bfloat16, enabled=amp_dtype is not None
        )

    def network(self) -> list[Prediction]:
        raise NotImplementedError

    def losses(self, predictions: list[Prediction]) -> list[Tensor]:
        """All weighted losses; puts its matching on the clock."""
        raise NotImplementedError

    def update(self) -> None:
        self.optimizer.step()

    def loss_and_gradients(self) -> Tensor:
        """All of a step but the change of the weights; returns the loss."""
        self.clock.new_step()
        with self.autocast:
            with self.clock.part("network forward"):
                predictions = self.network()
            with self.clock.part("losses"):
                loss = sum(self.losses(predictions))
        del predictions
        self.optimizer.zero_grad()
        with self.clock.part("backward"):
            loss.backward()
        return loss.detach()

    def __call__(self) -> None:
        self.loss_and_gradients()
        with self.clock.part("optimizer"):
            self.update()

    def gradients(self) -> Gradients:
        """By our names, as the last call left them."""
        named = self.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}


class OurStep(Step):
    """The parts of `mask_former.engine.step.TrainStep`."""

    def __init__(self, cfg: CfgNode, model: nn.Module, batch: Batch, clock: Clock) -> None:
        precision = prepare(cfg, model, training=True)
        super().__init__(model, build_optimizer(cfg, model), clock, precision.dtype)
        self.batch = batch
        # A call of `matcher` is found on the class: what is wrapped is an attribute of criterion.
        matcher = getattr(model.criterion.matcher, "untimed", model.criterion.matcher)

        def timed(*inputs: Any) -> Any:
            with self.clock.part("matching"):
                return matcher(*inputs)

        timed.untimed = matcher
        self.matcher = timed

    def network(self) -> list[Prediction]:
        self.images = self.model.preprocess(self.batch)
        return self.model.predict(self.images.tensor)

    def losses(self, predictions: list[Prediction]) -> list[Tensor]:
        self.model.criterion.matcher = self.matcher
        targets = self.model.prepare_targets(self.batch, self.images)
        return list(self.model.criterion(predictions, targets).values())


class PeerStep(Step):
    """What both peers do in the same way: normalised images, AdamW as it comes, clipping.

    In mixed precision their matching and losses are in float32.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        batch: Batch,
        clock: Clock,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        backbone = [p for name, p in model.named_parameters() if "backbone" in name]
        others = [p for name, p in model.named_parameters() if "backbone" not in name]
        groups = [{"params": backbone, "lr": 0.1 * cfg.SOLVER.BASE_LR}, {"params": others}]
        decay = cfg.SOLVER.WEIGHT_DECAY
        optimizer = AdamW(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=decay)
        super().__init__(model, optimizer, clock, amp_dtype)
        self.limit = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        self.images = torch.stack([x["image"] for x in batch]).to(clock.device)
        self.mean, self.std = (
            torch.tensor(values, device=clock.device).view(3, 1, 1)
            for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        self.targets = [
            Target(
                x["instances"].gt_classes.to(clock.device),
                x["instances"].gt_masks.tensor.to(clock.device),
            )
            for x in batch
        ]

    def network(self) -> list[Prediction]:
        layers = self.model((self.images - self.mean) / self.std)
        return [prediction_of_masks(p.class_logits.float(), p.mask_logits.float()) for p in layers]

    def losses(self, predictions: list[Prediction]) -> list[Tensor]:
        with torch.autocast(self.clock.device, enabled=False):
            return self.losses_in_float32(predictions)

    def losses_in_float32(self, predictions: list[Prediction]) -> list[Tensor]:
        raise NotImplementedError

    def update(self) -> None:
        clip_grad_norm_(self.model.parameters(), self.limit)
        self.optimizer.step()


class PlainStep(PeerStep):
    """The plain transcription of network and losses."""

    def __init__(
        self, cfg: CfgNode, model: nn.Module, batch: Batch, clock: Clock, *amp_dtype: torch.dtype
    ) -> None:
        super().__init__(cfg, plain_model(cfg, model.state_dict()), batch, clock, *amp_dtype)

    def losses_in_float32(self, predictions: list[Prediction]) -> list[Tensor]:
        losses = []
        for prediction in predictions:
            with self.clock.part("matching"):
                pairs = plain_matching(prediction, self.targets)
            losses += layer_losses(prediction, self.targets, pairs).values()
        return losses


class HuggingFaceStep(PeerStep):
    """The implementation of `transformers`, network and losses."""

    def __init__(
        self, cfg: CfgNode, model: nn.Module, batch: Batch, clock: Clock, *amp_dtype: torch.dtype
    ) -> None:
        peer = hugging_face_model(cfg, model.state_dict()).to(clock.device)
        super().__init__(cfg, peer, batch, clock, *amp_dtype)
        matcher = peer.model.criterion.matcher
        untimed = matcher.forward

        def timed(*inputs: Any) -> Any:
            with clock.part("matching"):
                return untimed(*inputs)

        matcher.forward = timed

    def losses_in_float32(self, predictions: list[Prediction]) -> list[Tensor]:
        return list(self.model.losses(predictions, self.targets).values())

    def gradients(self) -> Gradients:
        theirs = {name.removeprefix("model."): g for name, g in super().gradients().items()}
        ours, _ = from_hugging_face(theirs)
        # Which is made of nothing, and learns nothing.
        return {name: g for name, g in ours.items() if "relative_position_index" not in name}
