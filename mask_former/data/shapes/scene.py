"""The scenes of the "shapes" data set: what is in an image, and how hard it is.

A scene is a background of a few stuff textures with layers on top, later ones in front. One layer
is one segment: an object, a crowd of tiny objects of one class, or something of no class (void).
The constants below are the difficulty; lengths are in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import cv2
import numpy as np

from mask_former.data.shapes import render
from mask_former.data.shapes.render import Item, Light, Rng

IMAGE_SIDE = (128, 192)
STUFF_REGIONS = {1: 0.2, 2: 0.45, 3: 0.35}  # number -> probability
THING_COUNT = (1, 5)
THING_SIZE = (30, 58, 78)  # least, most frequent, greatest
STRETCH = (0.85, 1.18)
NO_THINGS_PROBABILITY = 0.08
TWIN_PROBABILITY = 0.2  # a thing is followed by one of its class that touches it
CROWD_PROBABILITY = 0.06
CROWD_COUNT = (10, 20)
CROWD_ITEM_SIZE = (8, 11)
CROWD_SPACING = 6.0
VOID_PROBABILITY = 0.2
VOID_SIZE = (20, 42)
# Colour tells most of a thing's class, as in photographs, and its form the rest: a class has a
# usual hue (in degrees; neighbours overlap), from which some of its objects depart.
USUAL_HUE = {"disc": 0, "triangle": 50, "star": 285, "cross": 165, "square": 225, "ring": 325}
HUE_DEVIATION = 9
UNUSUAL_PROBABILITY = 0.04
COLOR_CANDIDATES = 5  # the one that differs most from what is around wins
MIN_IN_FRAME = 0.6  # share of a layer that lies within the image
MIN_VISIBLE = 0.75  # share of a layer that those in front leave visible
MIN_STUFF_AREA = 100
PLACEMENT_TRIES = 12

VIDEO_SHAPE = (192, 256)
VIDEO_THINGS = 7
VIDEO_DRIFT = 30

VOID = 0


@dataclass(frozen=True)
class SceneSegment:
    """A segment of an image: the name of its class, and whether it is a crowd of things."""

    name: str
    iscrowd: bool = False


@dataclass(frozen=True)
class Sample:
    """An image with its panoptic ground truth.

    Attributes:
        image: uint8 RGB (H, W, 3).
        segment_map: uint8 (H, W); i+1 where segments[i] is, 0 (void) where nothing is labelled.
        segments: every one occurs in the map.
    """

    image: np.ndarray
    segment_map: np.ndarray
    segments: list[SceneSegment]


@dataclass(frozen=True)
class _Layer:
    items: list[Item]
    segment: SceneSegment | None  # None: void


def make_sample(rng: Rng) -> Sample:
    """A random image with its ground truth."""
    shape = tuple(int(side) for side in rng.integers(*IMAGE_SIDE, size=2, endpoint=True))
    num_regions = int(rng.choice(list(STUFF_REGIONS), p=list(STUFF_REGIONS.values())))
    composer = _Composer(rng, shape, num_regions)
    if rng.random() < VOID_PROBABILITY:
        composer.add_void()
    if rng.random() >= NO_THINGS_PROBABILITY:
        if rng.random() < CROWD_PROBABILITY:
            composer.add_crowd()
        composer.add_things(int(rng.integers(*THING_COUNT, endpoint=True)))
    light = Light.random(rng, shape)
    image = composer.background.copy()
    for layer in composer.layers:
        for item in layer.items:
            render.paint(image, item, light)
    return Sample(render.develop(image, light, rng), *composer.ground_truth())


def make_video(rng: Rng, num_frames: int) -> Iterator[np.ndarray]:
    """Frames, uint8 RGB (H, W, 3), of things that drift and turn; the last leads to the first."""
    composer = _Composer(rng, VIDEO_SHAPE, num_regions=max(STUFF_REGIONS))
    composer.add_things(VIDEO_THINGS)
    light = Light.random(rng, VIDEO_SHAPE)
    items = [layer.items[0] for layer in composer.layers]
    phases = rng.uniform(0, 2 * np.pi, (len(items), 2))
    turns = rng.choice([-1, 1], len(items))
    for frame in range(num_frames):
        time = 2 * np.pi * frame / num_frames
        image = composer.background.copy()
        for item, phase, turn in zip(items, phases, turns, strict=True):
            drift = VIDEO_DRIFT * np.sin(time + phase)
            moved = replace(item, center=item.center + drift, angle=item.angle + turn * time)
            render.paint(image, moved, light)
        yield render.develop(image, light, rng, blur=False)


class _Composer:
    """Places layers at random so that all of them stay recognisable."""

    def __init__(self, rng: Rng, shape: tuple[int, int], num_regions: int) -> None:
        self.rng = rng
        self.shape = shape
        self.stuff, self.regions = _stuff_regions(rng, shape, num_regions)
        self.background = np.zeros((*shape, 3), np.float32)
        for index, name in enumerate(self.stuff):
            inside = self.regions == index
            self.background[inside] = render.stuff_texture(name, rng, shape)[inside]
        self.layers: list[_Layer] = []
        self._areas: list[int] = []
        # Which layer is in front: its index + 1, 0 for the background.
        self._front = np.zeros(shape, np.uint8)
        # What the next layer's colour has to differ from: as painted, without texture and light.
        self._flat = cv2.blur(self.background, (15, 15))

    def add_things(self, count: int) -> None:
        """Add up to `count` things of different classes, some with a twin at their side."""
        names = cycle(self.rng.permutation(list(render.OUTLINES)))
        while count > 0:
            name = str(next(names))
            size = self.rng.triangular(*THING_SIZE)
            for _ in range(PLACEMENT_TRIES):
                item = self._item(name, size, self.rng.uniform(0, self.shape[::-1]))
                if placed := self._add([item], SceneSegment(name)):
                    break
            count -= 1
            if placed and count > 0 and self.rng.random() < TWIN_PROBABILITY:
                self._add_twin(item, name)
                count -= 1

    def _add_twin(self, first: Item, name: str) -> None:
        for _ in range(PLACEMENT_TRIES):
            size = first.size * self.rng.uniform(0.85, 1.15)
            angle = self.rng.uniform(0, 2 * np.pi)
            distance = self.rng.uniform(0.85, 0.95) * (first.size + size) / 2
            offset = distance * np.array([np.cos(angle), np.sin(angle)])
            if self._add([self._item(name, size, first.center + offset)], SceneSegment(name)):
                return

    def add_crowd(self) -> None:
        """Add many tiny things of one class, as one segment."""
        name = str(self.rng.choice(list(render.OUTLINES)))
        items = []
        middle = self.rng.uniform(0.25, 0.75, 2) * self.shape[::-1]
        count = self.rng.integers(*CROWD_COUNT, endpoint=True)
        for step in range(count):
            # A sunflower's spiral: even spacing without any search.
            radius, angle = CROWD_SPACING * np.sqrt(step + 0.5), 2.4 * step
            offset = radius * np.array([np.cos(angle), 0.8 * np.sin(angle)])
            jitter = self.rng.normal(0, 0.8, 2)
            size = self.rng.uniform(*CROWD_ITEM_SIZE)
            items.append(self._item(name, size, middle + offset + jitter))
        self._add(items, SceneSegment(name, iscrowd=True))

    def add_void(self) -> None:
        """Add one or two blobs that belong to no class."""
        for _ in range(self.rng.integers(1, 3)):
            place = self.rng.uniform(0.1, 0.9, 2) * self.shape[::-1]
            name = str(self.rng.choice(list(render.OUTLINES)))  # only for its colour
            item = self._item(name, self.rng.uniform(*VOID_SIZE), place)
            self._add([replace(item, contours=render.blob(self.rng))], None)

    def ground_truth(self) -> tuple[np.ndarray, list[SceneSegment]]:
        """The segment map and the segments of all that is visible, as in `Sample`."""
        segment_map = np.full(self.shape, VOID, np.uint8)
        segments: list[SceneSegment] = []
        for index, name in enumerate(self.stuff):
            visible = (self._front == 0) & (self.regions == index)
            if visible.sum() >= MIN_STUFF_AREA:
                segments.append(SceneSegment(name))
                segment_map[visible] = len(segments)
        for index, layer in enumerate(self.layers):
            if layer.segment is not None:
                segments.append(layer.segment)
                segment_map[self._front == index + 1] = len(segments)
        return segment_map, segments

    def _add(self, items: list[Item], segment: SceneSegment | None) -> bool:
        """Put a layer in front, unless too little of it or of another layer would be visible."""
        covered = np.zeros(self.shape, bool)
        for item in items:
            covered |= item.coverage(self.shape) >= 128
        area = int(covered.sum())
        if area < MIN_IN_FRAME * sum(np.pi / 4 * item.size**2 for item in items):
            return False
        left = np.bincount(self._front[~covered], minlength=len(self.layers) + 1)[1:]
        if (left < MIN_VISIBLE * np.array(self._areas)).any():
            return False
        self.layers.append(_Layer(items, segment))
        self._areas.append(area)
        self._front[covered] = len(self.layers)
        self._flat[covered] = items[0].color
        return True

    def _item(self, name: str, size: float, center: Sequence[float]) -> Item:
        rng = self.rng
        return Item(
            contours=render.OUTLINES[name],
            center=np.asarray(center),
            size=size,
            stretch=rng.uniform(*STRETCH),
            angle=rng.uniform(0, 2 * np.pi),
            color=self._contrasting_color(name, center, size),
            pattern=str(rng.choice(list(render.PATTERNS))),
            period=rng.uniform(0.16, 0.4) * size + 4,
            contrast=rng.uniform(*render.PATTERN_STRENGTH),
        )

    def _contrasting_color(self, name: str, center: Sequence[float], size: float) -> np.ndarray:
        unusual = self.rng.random() < UNUSUAL_PROBABILITY
        reach = int(0.7 * size)
        x, y = (int(v) for v in center)
        top, left = max(y - reach, 0), max(x - reach, 0)
        around = self._flat[top : y + reach : 4, left : x + reach : 4].reshape(-1, 3)
        candidates = [
            render.random_color(
                self.rng, None if unusual else self.rng.normal(USUAL_HUE[name], HUE_DEVIATION)
            )
            for _ in range(COLOR_CANDIDATES)
        ]
        if not len(around):
            return candidates[0]
        # The 20th percentile, so that a small neighbour counts and a single pixel does not.
        return max(candidates, key=lambda c: np.percentile(((around - c) ** 2).sum(1), 20))


def _stuff_regions(rng: Rng, shape: tuple[int, int], count: int) -> tuple[list[str], np.ndarray]:
    """Divide the image by wavy, tilted borders; (names, index of the region per pixel (H, W))."""
    names = [str(name) for name in rng.permutation(list(render.TEXTURES))[:count]]
    regions = np.zeros(shape, np.uint8)
    down, across = np.indices(shape, np.float32)
    for index in range(1, count):
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * across + np.sin(angle) * down
        aside = np.cos(angle) * down - np.sin(angle) * across
        wave = rng.uniform(2, 9) * np.sin(aside / rng.uniform(12, 25) + rng.uniform(0, 2 * np.pi))
        height = along + wave
        regions[height > np.quantile(height, rng.uniform(0.5, 0.72))] = index
    return names, regions
