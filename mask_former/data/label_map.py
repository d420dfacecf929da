"""Label maps: integers (H, W), mostly bytes; the class or the segment of each pixel."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import BitMasks
from torch import Tensor

from mask_former.structures import to_device


class RunLengths(NamedTuple):
    """The run-length encoding of one or several maps of one size, in reading order.

    Attributes:
        labels: of each map the labels of the runs, (R,). Along a run no map changes.
        lengths: in pixels, int64 (R,).
    """

    labels: tuple[np.ndarray, ...]
    lengths: np.ndarray


def run_lengths(*label_maps: np.ndarray) -> RunLengths:
    """Encode maps (H, W): runs are mostly hundreds of times fewer than pixels, and finding them
    takes one comparison of each pixel with its neighbour."""
    maps = [label_map.ravel() for label_map in label_maps]
    changes = reduce(np.logical_or, (labels[1:] != labels[:-1] for labels in maps))
    starts = np.append(0, np.flatnonzero(changes) + 1)[: maps[0].size]
    return RunLengths(
        tuple(labels[starts] for labels in maps), np.diff(starts, append=maps[0].size)
    )


def count_pixels(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, (N,), in ascending order, and the pixels of each, int64 (N,)."""
    (labels,), lengths = run_lengths(label_map)
    labels, index = np.unique(labels, return_inverse=True)
    return labels, np.bincount(index, lengths, minlength=len(labels)).astype(np.int64)


class LabelMapMasks(BitMasks):
    """The masks of segments that do not overlap, computed from their label map on access.

    What travels from a worker to the training and on to the device is the map, one byte a pixel,
    instead of one byte a pixel and segment.

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
        """A copy on another device; the host does not wait for it."""
        device = torch.device(device)
        return LabelMapMasks(to_device(self.label_map, device), to_device(self.labels, device))

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def cat(masks: Sequence[BitMasks]) -> BitMasks:
        return BitMasks.cat([BitMasks(m.tensor) for m in masks])
