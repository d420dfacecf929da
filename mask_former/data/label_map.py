"""Label maps: integers (H, W), mostly bytes, that tell the class or the segment of each pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import BitMasks
from torch import Tensor

from mask_former.structures import to_device


class Runs(NamedTuple):
    """Pixels of equal labels that follow each other in reading order.

    Attributes:
        labels: of each run, (R,).
        lengths: in pixels, int64 (R,).
    """

    labels: np.ndarray
    lengths: np.ndarray


def runs(label_map: np.ndarray) -> Runs:
    """The runs of a map: hundreds of times fewer than pixels, and found by one comparison each."""
    labels = label_map.ravel()
    changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    starts = np.append(0, changes)[: labels.size]
    return Runs(labels[starts], np.diff(starts, append=labels.size))


def areas(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, (N,), in ascending order, and in how many pixels each does, (N,)."""
    labels, lengths = runs(label_map)
    labels, index = np.unique(labels, return_inverse=True)
    return labels, np.bincount(index, lengths, minlength=len(labels)).astype(np.int64)


class LabelMapMasks(BitMasks):
    """The masks of segments that do not overlap, made from their map whenever they are asked for.

    So the map, of one byte a pixel, is what travels from a worker to the training, and from there
    to the device, instead of one byte a pixel and segment.

    Args:
        label_map: integers (H, W).
        labels: those of the segments, of the same type, (N,).
    """

    def __init__(self, label_map: Tensor, labels: Tensor) -> None:
        self.label_map = label_map
        self.labels = labels
        self.image_size = label_map.shape

    @property
    def tensor(self) -> Tensor:
        """The masks, bool (N, H, W)."""
        if self.label_map.is_cpu:
            # NumPy compares bytes 20 times as fast as PyTorch does.
            label_map, labels = self.label_map.numpy(), self.labels.numpy()
            return torch.from_numpy(label_map == labels[:, None, None])
        return self.label_map == self.labels[:, None, None]

    @property
    def device(self) -> torch.device:
        return self.label_map.device

    def to(self, device: torch.device | str) -> "LabelMapMasks":
        """The same on another device; the host goes on."""
        device = torch.device(device)
        return LabelMapMasks(to_device(self.label_map, device), to_device(self.labels, device))

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def cat(masks: Sequence[BitMasks]) -> BitMasks:
        return BitMasks.cat([BitMasks(m.tensor) for m in masks])
