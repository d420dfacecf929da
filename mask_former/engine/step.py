"""One step of the optimization: losses, gradients, update, in full or mixed precision."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mask_former.errors import NonFiniteError


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


class TrainStep:
    """Loss, gradient and update for one batch.

    In two halves, so that the caller can look at the losses before the weights change.

    Args:
        model: takes a batch, returns a dict of scalar losses; their sum is minimized.
        optimizer: clips gradients itself, if at all, inside its `step`.
        device_type: "cpu", "cuda" or "mps".
        amp_dtype: arithmetic of mixed precision; None for full precision. float16 comes with a
            loss scaler.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        device_type: str,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self._autocast = torch.autocast(device_type, amp_dtype, enabled=amp_dtype is not None)
        self._scaler = torch.amp.GradScaler(device_type, enabled=amp_dtype is torch.float16)

    def forward_backward(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses of `batch` and the gradients of their sum.

        Returns:
            The losses: detached scalars on the CPU.

        Raises:
            NonFiniteError: a loss is not finite; names it, its value and the images.
        """
        assert self.model.training, "A model in evaluation mode is not to be trained."
        with self._autocast:
            losses = self.model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(sum(losses.values())).backward()
        # One transfer for all, after the backward pass is queued: the GPU does not wait.
        values = torch.stack([loss.detach().float() for loss in losses.values()]).cpu()
        losses = dict(zip(losses, values.unbind(), strict=True))
        _check_finite(losses, batch)
        return losses

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


def _check_finite(losses: Mapping[str, Tensor], batch: Sequence[Mapping[str, Any]]) -> None:
    bad = {name: loss.item() for name, loss in losses.items() if not math.isfinite(loss)}
    if bad:
        values = ", ".join(f"{name} = {value}" for name, value in bad.items())
        images = ", ".join(str(record.get("file_name", "?")) for record in batch)
        raise NonFiniteError(f"the loss is not finite ({values}); images: {images}")
