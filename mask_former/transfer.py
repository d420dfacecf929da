"""From the host's memory to the model's device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device` while the host goes on: a GPU reads only pinned memory by itself, and the
    host would wait for everything that the GPU has to do before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
