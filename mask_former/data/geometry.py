"""Masks and boxes in COCO's format, checked in memory.

pycocotools trusts its input: from a coordinate that is not a number, or run lengths that do not
cover the image, it reads and writes foreign memory. So nothing gets to it but what passed here.
"""

import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as coco_mask

from mask_former.data.json_files import Json, described
from mask_former.errors import UserError, report

Place = Callable[[], str]
"""What an annotation is called in an error message."""

# Sides of images, and their product, that run lengths of 32 bits can describe.
MAX_SIDE, MAX_PIXELS = 100_000, 2**31 - 1
# How far outside of its image a coordinate may lie, in sides of the image.
MARGIN = 1.0
# What `check_masks` counts.
EMPTY = "have a mask without a pixel: it is not learned, and counts as missed in evaluation"
TOO_FEW_POINTS = "have polygons of fewer than three points, which are left out"
FRACTIONS = "have all coordinates in 0..1: are they fractions of the image's size?"
OTHER_BOX = (
    "have a bbox that is not that of the mask: is it [x, y, width, height], and are both in pixels "
    "of the image as it is now?"
)
_CHUNK = 20_000
_FORMAT = (
    "A mask is a list of polygons, [[x1, y1, x2, y2, ...], ...] in pixels, or run lengths, "
    '{"size": [height, width], "counts": ...}'
)


class Masked(NamedTuple):
    """An annotation with a mask.

    Attributes:
        annotation: its `segmentation` is checked and, where parts of it are no polygons, changed.
        size: height and width of its image.
        place: what it is called in an error message.
    """

    annotation: Json
    size: tuple[int, int]
    place: Place


def check_size(height: Any, width: Any, place: str) -> tuple[int, int]:
    """The size of an image; UserError if it is no size that an image can have."""
    for name, side in (("height", height), ("width", width)):
        whole = isinstance(side, int | float) and not isinstance(side, bool) and side == side // 1
        if not (whole and 1 <= side <= MAX_SIDE):
            raise UserError(
                f"{place}: its {name} is {described(side)}, but must be a whole number in "
                f"1..{MAX_SIDE}."
            )
    if height * width > MAX_PIXELS:
        raise UserError(f"{place}: {width} x {height} pixels are more than {MAX_PIXELS}.")
    return int(height), int(width)


def check_masks(masked: Iterator[Masked]) -> Counter:
    """Check the masks of many annotations.

    A polygon of fewer than three points has no pixel, and is removed; a mask of such polygons only
    becomes an empty one.

    Returns:
        How many annotations are unusual, by what is unusual.

    Raises:
        UserError: a mask has another form, run lengths do not cover the image, a coordinate is not
            finite or further than `MARGIN` from the image.
    """
    remarks: Counter = Counter()
    while chunk := list(islice(masked, _CHUNK)):
        values, lengths, owners = array("d"), [], []
        for index, (annotation, size, place) in enumerate(chunk):
            segmentation = annotation.get("segmentation")
            if isinstance(segmentation, dict):
                remarks[EMPTY] += not check_run_lengths(segmentation, size, place)
                continue
            polygons = _polygons(segmentation, place)
            if len(polygons) < len(segmentation):
                remarks[TOO_FEW_POINTS] += 1
                remarks[EMPTY] += not polygons
                annotation["segmentation"] = polygons or empty_mask(size)
            for polygon in polygons:
                _append(values, polygon, place)
                lengths.append(len(polygon) // 2)
                owners.append(index)
        if lengths:
            remarks.update(_check_coordinates(chunk, np.array(values), lengths, owners))
    return +remarks


def sound_masks(masked: list[Masked], remarks: Counter) -> list[Masked]:
    """Those whose masks are right; the others are reported, which raises by default.

    Args:
        masked: annotations with masks, which `check_masks` may change.
        remarks: what it returns is added.
    """
    try:
        remarks.update(check_masks(iter(masked)))
        return masked
    except UserError as error:
        if len(masked) == 1:
            report(error)
            return []
    # The wrong ones are found by halving: checking each alone would take far longer.
    middle = len(masked) // 2
    return sound_masks(masked[:middle], remarks) + sound_masks(masked[middle:], remarks)


def check_run_lengths(segmentation: dict[str, Any], size: tuple[int, int], place: Place) -> bool:
    """Check a run-length encoding; returns whether it has any pixel.

    Raises:
        UserError: `size` is another one than the image's, or the counts do not cover it exactly.
    """
    own = segmentation.get("size")
    sound = isinstance(own, list | tuple) and all(type(side) is int for side in own)
    if not (sound and tuple(own) == tuple(size)):
        raise UserError(
            f"{place()}: the size of its run lengths is {described(own)}, but that of its image "
            f"is [{size[0]}, {size[1]}], height and width."
        )
    counts = segmentation.get("counts")
    try:
        if isinstance(counts, list):
            if not all(type(count) is int for count in counts):
                raise ValueError("are not whole numbers")
            counts = np.array(counts, dtype=np.int64)
        else:
            counts = _decompress(counts)
        if ((counts < 0) | (counts > MAX_PIXELS)).any():
            raise ValueError("are negative, or larger than any image")
        if counts.sum() != size[0] * size[1]:
            raise ValueError(
                f"cover {counts.sum()} pixels, but its image has {size[0]} x {size[1]} = "
                f"{size[0] * size[1]}"
            )
    except (ValueError, OverflowError) as error:
        raise UserError(f"{place()}: the counts of its run lengths {error}. {_FORMAT}.") from error
    return bool(counts[1::2].any())


def _decompress(counts: Any) -> np.ndarray:
    """Run lengths, int64, of COCO's text: six bits a character, five of them of the number."""
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if not isinstance(counts, bytes):
        raise ValueError(f"are {described(counts)}")
    characters = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(characters) or ((characters < 0) | (characters > 63)).any():
        raise ValueError("are no compressed run lengths")
    is_last = (characters & 32) == 0
    ends = np.flatnonzero(is_last)
    starts = np.append(0, ends[:-1] + 1)
    widths = ends - starts + 1
    if not is_last[-1] or widths.max() > 7:
        raise ValueError("are no compressed run lengths")
    position = np.arange(len(characters)) - starts.repeat(widths)
    numbers = np.add.reduceat((characters & 31) << (5 * position), starts)
    numbers -= np.where(characters[ends] & 16, 1 << (5 * widths), 0)
    # From the fourth on, numbers are differences from the number before the last.
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def _polygons(segmentation: Any, place: Place) -> list[list[float]]:
    """The polygons of three or more points."""
    if segmentation is None or segmentation == []:
        raise UserError(f"{place()} has no mask. {_FORMAT}.")
    lengths = {1}  # odd, as what is no polygon
    if isinstance(segmentation, list):
        lengths = {len(p) if isinstance(p, list) else 1 for p in segmentation}
    points_as_pairs = lengths == {2}
    if points_as_pairs or any(length % 2 for length in lengths):
        raise UserError(f"{place()}: its segmentation is {described(segmentation)}. {_FORMAT}.")
    if min(lengths) >= 6:
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) >= 6]


def _append(values: array, polygon: list[float], place: Place) -> None:
    try:
        values.frombytes(struct.pack(f"{len(polygon)}d", *polygon))  # faster than `extend`
    except struct.error as error:
        raise UserError(
            f"{place()}: a polygon holds what is no number, {described(polygon)}. {_FORMAT}."
        ) from error


def _check_coordinates(
    chunk: Sequence[Masked], values: np.ndarray, lengths: list[int], owners: list[int]
) -> Counter:
    """Check the coordinates of all polygons of a chunk.

    Args:
        chunk: the annotations.
        values: x, y, x, y, ... of all points.
        lengths: the number of points of each polygon.
        owners: the index of its annotation.

    Returns:
        As `check_masks`.
    """
    points = values.reshape(-1, 2)
    starts = np.append(0, np.cumsum(lengths)[:-1])
    with np.errstate(invalid="ignore"):
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    sizes = np.array([item.size for item in chunk], dtype=np.float64)[owners, ::-1]
    # NaN is not near either.
    near = ((low >= -MARGIN * sizes) & (high <= (1 + MARGIN) * sizes)).all(axis=1)
    if not near.all():
        polygon = int(np.flatnonzero(~near)[0])
        item = chunk[owners[polygon]]
        raise UserError(
            f"{item.place()}: a polygon reaches from {_point(low[polygon])} to "
            f"{_point(high[polygon])}, but its image is {item.size[1]} x {item.size[0]} pixels."
        )
    owners = np.array(owners)
    of_annotation = np.flatnonzero(np.diff(owners, prepend=-1))
    low, high = np.minimum.reduceat(low, of_annotation), np.maximum.reduceat(high, of_annotation)
    index, sizes = owners[of_annotation], sizes[of_annotation]

    visible = np.minimum(high, sizes) - np.maximum(low, 0)
    maybe_empty = index[(visible.min(axis=1) < 2) | (visible.prod(axis=1) < 8)]
    maybe_fractions = index[((low >= 0) & (high <= 1) & (sizes > 1)).all(axis=1)]
    boxes = [chunk[i].annotation.get("bbox") or [np.nan] * 4 for i in index]
    corner, side = np.hsplit(np.array(boxes, dtype=np.float64), 2)
    tolerance = 2 + 0.1 * (high - low)
    differs = (abs(corner - low) > tolerance) | (abs(corner + side - high) > tolerance)
    return Counter(
        {
            EMPTY: sum(
                not mask_area(chunk[i].annotation["segmentation"], chunk[i].size)
                for i in maybe_empty
            ),
            FRACTIONS: sum(
                any(x % 1 for polygon in chunk[i].annotation["segmentation"] for x in polygon)
                for i in maybe_fractions
            ),
            OTHER_BOX: int(differs.any(axis=1).sum()),
        }
    )


def _point(point: np.ndarray) -> str:
    return f"({point[0]:g}, {point[1]:g})"


def empty_mask(size: tuple[int, int]) -> dict[str, list[int]]:
    """Run lengths of a mask without a pixel."""
    return {"size": list(size), "counts": [size[0] * size[1]]}


def run_lengths_of(segmentation: list | dict, size: tuple[int, int]) -> dict[str, Any]:
    """The compressed run lengths of a checked mask, of the given size (height, width)."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def mask_area(segmentation: list | dict, size: tuple[int, int]) -> int:
    """The pixels of a checked mask."""
    return int(coco_mask.area(run_lengths_of(segmentation, size)))


def mask_box(segmentation: list | dict, size: tuple[int, int]) -> list[float]:
    """The box (x, y, width, height) around a checked mask, all 0 if it is empty."""
    return coco_mask.toBbox(run_lengths_of(segmentation, size)).tolist()
