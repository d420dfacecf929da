"""One step of the optimization: losses, gradients, update, in full or mixed precision."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mask_former.errors import NonFiniteError, UserError
from mask_former.precision import inference_precision

Batch = Sequence[Mapping[str, Any]]


class MixedPrecision(nn.Module):
    """`model` under autocast, and nothing around it; in the mode that `model` is in."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        # An evaluation puts the mode back that it found: the EMA of weights stays in eval mode.
        self.training = model.training

    def forward(self, *inputs: Any) -> Any:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, self.dtype):
            return self.model(*inputs)


def at_test_precision(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` in the arithmetic of TEST.PRECISION."""
    dtype = inference_precision(cfg).dtype
    return model if dtype is None else MixedPrecision(model, dtype)


def distribute(model: nn.Module) -> nn.Module:
    """`model`, made to average its gradients over the processes if there are several."""
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    model = DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
    # Buffers are equal at the start, and a broadcast in every forward pass would let an evaluation
    # hang whose shares are not equal. (As an argument this has another name in newer PyTorch.)
    model.broadcast_buffers = False
    return model


def share_buffers(model: nn.Module) -> None:
    """Give all processes the main one's buffers, which are those that a checkpoint holds.

    Batch norms gather statistics of their own process's images, and would evaluate with them.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def loss_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` whose losses are divided by how much a batch holds: those with a
    method `normalize_by(batch, average)`, such as MaskFormer's."""
    return [module for module in model.modules() if hasattr(module, "normalize_by")]


@contextmanager
def normalized_by(
    model: nn.Module, batch: Batch, average: Callable[[Tensor], Tensor] | None = None
) -> Iterator[None]:
    """Within the block, losses are divided by how much `batch` holds, of which the inputs of
    `model` are parts. `average` takes the mean over the processes; None: as in training."""
    modules = loss_modules(model)
    try:
        for module in modules:
            module.normalize_by(batch, average)
        yield
    finally:
        for module in modules:
            module.normalize_by(None)


class TrainStep:
    """Loss, gradient and update for one batch.

    In two halves, so that the caller can look at the losses before the weights change.

    Args:
        model: takes a batch, returns a dict of scalar losses; their sum is minimized.
        optimizer: clips gradients itself, if at all, inside its `step`.
        device_type: "cpu", "cuda" or "mps".
        amp_dtype: arithmetic of mixed precision; None for full precision. float16 comes with a
            loss scaler.
        parts: the gradients of a batch are accumulated over so many parts, one after the other, in
            the memory of one. Losses are sums over the parts, each divided by what the whole batch
            holds, as if it came at once. Images are padded to the largest of their part, as those
            of a process are, and batch norms see the images of a part.

    Raises:
        UserError: the model has no part that says what its losses are divided by.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        device_type: str,
        amp_dtype: torch.dtype | None = None,
        parts: int = 1,
    ) -> None:
        if parts > 1 and not loss_modules(model):
            raise UserError(
                f"SOLVER.ACCUMULATION_STEPS is {parts}, but {type(model).__name__} does not say "
                "what its losses are divided by: give it a method normalize_by, as MaskFormer's, "
                "or leave the batch whole."
            )
        self.model = model
        self.parts = parts
        self.optimizer = optimizer
        self._autocast = torch.autocast(device_type, amp_dtype, enabled=amp_dtype is not None)
        self._scaler = torch.amp.GradScaler(device_type, enabled=amp_dtype is torch.float16)

    def forward_backward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of `batch` and the gradients of their sum.

        Returns:
            The losses: detached scalars on the CPU.

        Raises:
            NonFiniteError: a loss is not finite; names it, its value and the images.
        """
        assert self.model.training, "A model in evaluation mode is not to be trained."
        self.optimizer.zero_grad(set_to_none=True)
        parts = [batch[i :: self.parts] for i in range(self.parts)]
        found = []
        with normalized_by(self.model, batch) if self.parts > 1 else nullcontext():
            for part in parts:
                # The gradients are averaged over the processes once, with the last part's.
                alone = part is not parts[-1] and isinstance(self.model, DistributedDataParallel)
                with self.model.no_sync() if alone else nullcontext():
                    found.append(self._accumulate(part))
        return self._read(parts, found)

    def _accumulate(self, batch: Batch) -> dict[str, Tensor]:
        with self._autocast:
            losses = self.model(batch)
        self._scaler.scale(sum(losses.values())).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _read(self, parts: Sequence[Batch], found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The sums of the losses over the parts; raises NonFiniteError."""
        # One transfer for all, after the backward pass is queued: the GPU does not wait.
        values = torch.stack([loss.float() for losses in found for loss in losses.values()]).cpu()
        values = values.view(len(parts), -1)
        for part, row in zip(parts, values, strict=True):
            _check_finite(dict(zip(found[0], row, strict=True)), part)
        return dict(zip(found[0], values.sum(0).unbind(), strict=True))

    def update(self) -> None:
        """Change the weights by the gradients."""
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {"grad_scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Empty unless the checkpoint is one of a float16 training.
        if state["grad_scaler"]:
            self._scaler.load_state_dict(state["grad_scaler"])


def _check_finite(losses: Mapping[str, Tensor], batch: Batch) -> None:
    bad = {name: loss.item() for name, loss in losses.items() if not math.isfinite(loss)}
    if bad:
        values = ", ".join(f"{name} = {value}" for name, value in bad.items())
        images = ", ".join(str(record.get("file_name", "?")) for record in batch)
        raise NonFiniteError(f"the loss is not finite ({values}); images: {images}")
