"""Predictions drawn over images, fast enough for video.

Images are uint8 (H, W, 3) in OpenCV's order, blue first, as `cv2.imread` and `cv2.VideoCapture`
return them. Every kind of prediction becomes an index map, the number of the segment that each
pixel shows, and a list of styles; one function paints these.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from torch import Tensor

from mask_former.data.classes import ignored_label
from mask_former.errors import UserError
from mask_former.visualization.labels import write_labels
from mask_former.visualization.palette import Color, Palette


@dataclass(frozen=True)
class SegmentStyle:
    """The colour and the label of one segment. An empty `text` draws no label."""

    color: Color
    text: str = ""


def draw_panoptic(
    image: np.ndarray,
    panoptic_map: np.ndarray | Tensor,
    segments_info: Sequence[Mapping[str, Any]],
    metadata: Metadata,
    *,
    shades: Sequence[int] | None = None,
    scale: float = 1.0,
    labels: bool = True,
) -> np.ndarray:
    """Draw a panoptic segmentation.

    Args:
        image: uint8 (H, W, 3), BGR.
        panoptic_map: segment ids, integer (H, W); 0 and ids that `segments_info` does not list
            show the bare image.
        segments_info: dictionaries with `id`, `category_id` (contiguous) and, optionally,
            `isthing`, `iscrowd` and `score`.
        metadata: Detectron2's `Metadata`; missing names and colours are generated.
        shades: the shade of each segment's class colour. Default: instances of one class are
            numbered in the order of `segments_info`. `ShadeTracker` keeps them stable in a video.
        scale: the picture's size relative to the image; small images are easier to read enlarged.
        labels: whether to write the names of the classes.

    Returns:
        The picture, uint8 (scale * H, scale * W, 3), BGR.
    """
    ids = np.array([info["id"] for info in segments_info], np.int64)
    shades = number_instances(segments_info) if shades is None else shades
    palette = Palette(metadata)
    segments = [
        SegmentStyle(palette.color(info["category_id"], shade), _caption(palette, info))
        for info, shade in zip(segments_info, shades, strict=True)
    ]
    index = index_map(to_numpy(panoptic_map), ids)
    return paint(image, index, segments, scale=scale, labels=labels)


def draw_semantic(
    image: np.ndarray,
    sem_seg: np.ndarray | Tensor,
    metadata: Metadata,
    *,
    scale: float = 1.0,
    labels: bool = True,
) -> np.ndarray:
    """Draw a semantic segmentation.

    Args:
        image: uint8 (H, W, 3), BGR.
        sem_seg: scores (K, H, W), of which the largest counts, or class ids, integer (H, W). The
            data set's `ignore_label` shows the bare image.
        metadata, scale, labels, and the result: as in `draw_panoptic`.
    """
    if sem_seg.ndim == 3:
        sem_seg = sem_seg.argmax(0)
    classes = to_numpy(sem_seg)
    present = np.flatnonzero(np.bincount(classes.ravel()))
    present = present[present != ignored_label(metadata)]
    palette = Palette(metadata)
    segments = [SegmentStyle(palette.color(c), palette.name(c)) for c in present.tolist()]
    return paint(image, index_map(classes, present), segments, scale=scale, labels=labels)


def draw_instances(
    image: np.ndarray,
    instances: Any,
    metadata: Metadata,
    *,
    scale: float = 1.0,
    labels: bool = True,
) -> np.ndarray:
    """Draw instances; where they overlap, the smaller lies on top. Of two that are nearly the same,
    only the more confident is drawn: a model says some objects several times, at falling scores.

    Args:
        image: uint8 (H, W, 3), BGR.
        instances: Detectron2's `Instances` with `pred_masks` (n, H, W) and `pred_classes` (n,),
            and optionally `scores` (n,) and `iscrowd` (n,).
        metadata, scale, labels, and the result: as in `draw_panoptic`.
    """
    masks = to_numpy(instances.pred_masks).astype(bool)
    classes = to_numpy(instances.pred_classes).tolist()
    infos = [{"id": number, "category_id": c} for number, c in enumerate(classes, start=1)]
    for field, key in (("scores", "score"), ("iscrowd", "iscrowd")):
        if instances.has(field):
            for info, value in zip(infos, to_numpy(instances.get(field)).tolist(), strict=True):
                info[key] = value
    scores = [info.get("score", 0.0) for info in infos]
    areas = masks.sum(axis=(1, 2))
    painted = np.zeros(image.shape[:2], np.int32)
    for i in np.argsort(-areas, kind="stable").tolist():
        shared = np.bincount(painted[masks[i]], minlength=1)
        shared[0] = 0  # nobody's
        below = int(shared.argmax()) - 1
        if below >= 0 and scores[below] > scores[i]:
            union = areas[i] + areas[below] - shared[below + 1]
            if 2 * shared[below + 1] > union:
                continue
        painted[masks[i]] = i + 1
    return draw_panoptic(image, painted, infos, metadata, scale=scale, labels=labels)


def number_instances(segments_info: Sequence[Mapping[str, Any]]) -> list[int]:
    """Number the segments of each class from 0, in the order given."""
    next_number: dict[int, Iterator[int]] = defaultdict(count)
    return [next(next_number[info["category_id"]]) for info in segments_info]


def paint(
    image: np.ndarray,
    index: np.ndarray,
    segments: Sequence[SegmentStyle],
    *,
    scale: float = 1.0,
    opacity: float = 0.6,
    labels: bool = True,
) -> np.ndarray:
    """Lay coloured, outlined and labelled segments over an image.

    Args:
        image: uint8 (H, W, 3), BGR; left as it is.
        index: uint8 or uint16 (H, W); i shows `segments[i - 1]`, 0 the bare image.
        segments: their styles.
        scale: the picture's size relative to the image.
        opacity: of the colours, 0..1.
        labels: whether to write the segments' texts.

    Raises:
        UserError: the sizes of image and index map differ.
    """
    if image.shape[:2] != index.shape:
        raise UserError(f"an image of {image.shape[:2]} and a segmentation of {index.shape} pixels")
    if scale != 1:
        height, width = (max(round(side * scale), 1) for side in index.shape)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        index = _resize_index(index, len(segments), (width, height))
    table = np.array([(0, 0, 0), *(segment.color for segment in segments)], np.uint8)
    colors = np.take(table, index, axis=0)
    picture = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
    cv2.copyTo(image, (index == 0).view(np.uint8), picture)
    unit = _line_width(picture)
    picture = _outline(picture, index, unit)
    if labels:
        texts = [segment.text for segment in segments]
        colors = [segment.color for segment in segments]
        write_labels(picture, index, texts, colors, size=round(min(max(10 * unit, 9), 32)))
    return picture


def _line_width(picture: np.ndarray) -> float:
    """A width in pixels that looks alike on pictures of all sizes."""
    return (picture.shape[0] * picture.shape[1]) ** 0.5 / 330


def _outline(picture: np.ndarray, index: np.ndarray, width: float) -> np.ndarray:
    kernel = np.ones((2, 2) if width < 1 else (3, 3), np.uint8)
    edges = cv2.morphologyEx(index, cv2.MORPH_GRADIENT, kernel, iterations=max(round(width / 2), 1))
    weight = cv2.blur((edges > 0).astype(np.float32), (3, 3)) * 0.8
    return cv2.blendLinear(picture, np.full_like(picture, 255), 1 - weight, weight)


def _caption(palette: Palette, info: Mapping[str, Any]) -> str:
    name = palette.name(info["category_id"])
    if info.get("iscrowd"):
        name += " (crowd)"
    return f"{name} {info['score']:.0%}" if "score" in info else name


def index_map(ids_map: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Replace `ids[i]` by i + 1 and every other id by 0."""
    largest = max(int(ids_map.max(initial=0)), int(ids.max(initial=0)))
    table = np.zeros(largest + 1, np.uint8 if len(ids) < 256 else np.uint16)
    table[ids] = np.arange(1, len(ids) + 1)
    return np.take(table, ids_map)


def _resize_index(index: np.ndarray, count: int, size: tuple[int, int]) -> np.ndarray:
    """Resize an index map to (width, height) with smooth borders: every pixel goes to the segment
    with the largest share in its neighbourhood."""
    best = np.zeros(size[::-1], np.float32)
    resized = np.zeros(size[::-1], index.dtype)
    for number in range(count + 1):
        share = cv2.blur((index == number).astype(np.float32), (3, 3))
        share = cv2.resize(share, size, interpolation=cv2.INTER_LINEAR)
        more = share > best
        best[more] = share[more]
        resized[more] = number
    return resized


def to_numpy(values: np.ndarray | Tensor) -> np.ndarray:
    """The values as a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
