"""Rendering the "shapes" data set: outlines, textures, light and noise.

Images are float32 RGB in [0, 1], shape (H, W, 3), until `develop` makes them uint8. Lengths are in
pixels, angles in radians, points (x, y).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

Rng = np.random.Generator

BLUR_PROBABILITY = 0.12
BLUR_SIGMA = (0.5, 1.0)
NOISE_SIGMA = (0.01, 0.035)
PATTERN_STRENGTH = (0.08, 0.28)
RELIEF_STRENGTH = 0.9
SHADOW_STRENGTH = 0.45
TEXTURE_TILT = 0.35


def polygon(corners: int, radii: Sequence[float] = (1.0,)) -> np.ndarray:
    """A polygon around the origin whose corners go through `radii` in turn, (corners, 2)."""
    angles = 2 * np.pi * np.arange(corners) / corners
    radius = np.resize(radii, corners)
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1)


def blob(rng: Rng) -> list[np.ndarray]:
    """A random lobed outline that is none of `OUTLINES`, but of the same area."""
    turns = 2 * np.pi * np.arange(64) / 64
    first, second = rng.uniform(0, 2 * np.pi, 2)
    radii = 1 + 0.35 * np.cos(2 * turns + first) + 0.3 * np.cos(3 * turns + second)
    return _scaled(polygon(64, radii))


def _cross(arm: float = 0.34) -> np.ndarray:
    quarter = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _scaled(*contours: np.ndarray) -> list[np.ndarray]:
    """Scale an outline, its first contour less the others, to the area of a disc of diameter 1."""
    areas = [cv2.contourArea(contour.astype(np.float32)) for contour in contours]
    scale = np.sqrt(np.pi / 4 / (areas[0] - sum(areas[1:])))
    return [contour * scale for contour in contours]


# Name of a thing class -> its contours; all outlines have the same area.
OUTLINES: dict[str, list[np.ndarray]] = {
    "disc": _scaled(polygon(48)),
    "square": _scaled(polygon(4)),
    "triangle": _scaled(polygon(3)),
    "star": _scaled(polygon(10, (1.0, 0.45))),
    "cross": _scaled(_cross()),
    "ring": _scaled(polygon(48), polygon(48) * 0.52),
}


@dataclass(frozen=True)
class Item:
    """One drawn object.

    Attributes:
        contours: its outline around the origin, as in `OUTLINES`.
        center: where, (x, y), float (2,).
        size: diameter of the disc of the same area.
        stretch: aspect ratio, 1 for none.
        angle: rotation.
        color: RGB in [0, 1].
        pattern: a name of `PATTERNS`.
        period: of the pattern, in pixels.
        contrast: of the pattern.
    """

    contours: list[np.ndarray]
    center: np.ndarray
    size: float
    stretch: float
    angle: float
    color: np.ndarray
    pattern: str
    period: float
    contrast: float

    def coverage(self, shape: tuple[int, int]) -> np.ndarray:
        """Share of every pixel that it covers, uint8 (H, W), 255 for all."""
        fraction_bits = 4
        c, s = np.cos(self.angle), np.sin(self.angle)
        scale = self.size * np.diag([np.sqrt(self.stretch), 1 / np.sqrt(self.stretch)])
        placed = [pts @ scale @ np.array([[c, s], [-s, c]]) + self.center for pts in self.contours]
        canvas = np.zeros(shape, np.uint8)
        fixed = [np.rint(pts * 2**fraction_bits).astype(np.int32) for pts in placed]
        return cv2.fillPoly(canvas, fixed, 255, cv2.LINE_AA, fraction_bits)


# Name -> pattern over the item's own coordinates (in periods, times 2 pi), in [-1, 1].
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda u, v: np.zeros_like(u),
    "stripes": lambda u, v: np.tanh(3 * np.sin(u)),
    "checks": lambda u, v: np.tanh(4 * np.sin(u) * np.sin(v)),
    "dots": lambda u, v: np.tanh(4 * (np.cos(u) + np.cos(v) - 0.7)),
    "waves": lambda u, v: np.sin(u + np.sin(v)),
}


@dataclass(frozen=True)
class Light:
    """The light of one scene: where it comes from, and how it falls off over the image."""

    direction: tuple[float, float]  # unit vector in the image plane, towards the light
    falloff: np.ndarray  # (H, W, 1), multiplies the image

    @classmethod
    def random(cls, rng: Rng, shape: tuple[int, int]) -> "Light":
        angle = rng.uniform(-np.pi, 0)  # from above
        x, y = np.cos(angle), np.sin(angle)
        across, down = _grid(shape)
        ramp = x * (across / shape[1] - 0.5) + y * (down / shape[0] - 0.5)
        clouds = 0.06 * _noise(rng, shape, 60)
        falloff = rng.uniform(0.85, 1.05) + rng.uniform(0.1, 0.45) * ramp + clouds
        return cls((x, y), falloff[..., None].astype(np.float32))


def paint(canvas: np.ndarray, item: Item, light: Light) -> None:
    """Paint `item` and its shadow over `canvas`, in place."""
    left, top = (max(int(v - 1.2 * item.size - 8), 0) for v in item.center)
    right, bottom = (max(int(v + 1.2 * item.size + 8), 0) for v in item.center)
    canvas = canvas[top:bottom, left:right]
    if not canvas.size:
        return  # all of it is outside of the image
    item = replace(item, center=item.center - np.array([left, top]))
    shape = canvas.shape[:2]
    alpha = item.coverage(shape).astype(np.float32) / 255
    x, y = light.direction
    reach = 0.07 * item.size
    move = np.array([[1, 0, -x * reach], [0, 1, -y * reach]])
    shadow = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), 1 + reach / 2), move, shape[::-1])
    canvas *= 1 - SHADOW_STRENGTH * shadow[..., None]

    # A soft bevel: the blurred outline is a height, lit where it faces the light.
    height = cv2.GaussianBlur(alpha, (0, 0), 1 + 0.06 * item.size)
    slope = x * cv2.Sobel(height, -1, 1, 0, scale=0.25) + y * cv2.Sobel(
        height, -1, 0, 1, scale=0.25
    )
    across, down = _grid(shape)
    c, s = np.cos(item.angle), np.sin(item.angle)
    dx, dy = across - item.center[0], down - item.center[1]
    wave = 2 * np.pi / item.period
    pattern = PATTERNS[item.pattern](wave * (c * dx + s * dy), wave * (c * dy - s * dx))
    shade = 1 + item.contrast * pattern - RELIEF_STRENGTH * np.clip(4 * slope, -0.4, 0.4)
    surface = np.clip(shade[..., None] * item.color.astype(np.float32), 0, 1)
    canvas += alpha[..., None] * (surface - canvas)


def develop(canvas: np.ndarray, light: Light, rng: Rng, blur: bool = True) -> np.ndarray:
    """Light a painted canvas, blur it now and then, add noise. Returns uint8 (H, W, 3)."""
    image = canvas * light.falloff
    if blur and rng.random() < BLUR_PROBABILITY:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*BLUR_SIGMA))
    image = image + rng.uniform(*NOISE_SIGMA) * rng.standard_normal(image.shape, np.float32)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def stuff_texture(name: str, rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """The texture `name` of `TEXTURES` in a random tint and tilt, float32 (H, W, 3)."""
    side = int(np.hypot(*shape)) + 2
    texture = TEXTURES[name](rng, (side, side)).astype(np.float32)
    tilt = np.degrees(rng.uniform(-TEXTURE_TILT, TEXTURE_TILT))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), tilt, 1)
    turn[:, 2] += (np.array(shape[::-1]) - side) / 2
    return np.clip(cv2.warpAffine(texture, turn, shape[::-1]), 0, 1)


def _grass(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    blades = 0.2 * _noise(rng, shape, (9, 2)) + 0.1 * _noise(rng, shape, (4, 1))
    patches = 0.1 * _noise(rng, shape, 28)
    return _tinted(_hsv(rng, (85, 125), (0.35, 0.7), (0.4, 0.65)), 1 + blades + patches)


def _water(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    _, down = _grid(shape)
    phase = 2 * np.pi * down / rng.uniform(9, 14) + 1.4 * _noise(rng, shape, (10, 32))
    ripples = 0.16 * np.sin(phase) + 0.05 * _noise(rng, shape, (2, 9))
    glints = 0.3 * np.clip(np.sin(phase) + 0.5 * _noise(rng, shape, (3, 8)) - 0.9, 0, 1)
    return _tinted(_hsv(rng, (185, 235), (0.35, 0.75), (0.5, 0.8)), 1 + ripples) + glints[..., None]


def _sand(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    grain = 0.1 * rng.standard_normal(shape, np.float32)
    dunes = 0.05 * np.sin(2 * np.pi * _grid(shape)[1] / 34 + 1.5 * _noise(rng, shape, 40))
    return _tinted(_hsv(rng, (32, 55), (0.2, 0.5), (0.65, 0.88)), 1 + grain + dunes)


def _brick(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    across, down = _grid(shape)
    height = rng.uniform(9, 14)
    width = 2.2 * height
    rows = (down / height).astype(int)
    shifted = across / width + 0.5 * (rows % 2)
    counts = (rows.max() + 1, int(shifted.max()) + 1)
    tones = rng.uniform(0.8, 1.2, counts).astype(np.float32)
    to_joint_x = (0.5 - np.abs(shifted % 1 - 0.5)) * width
    to_joint_y = (0.5 - np.abs(down / height % 1 - 0.5)) * height
    joint = np.clip(2 - np.minimum(to_joint_x, to_joint_y), 0, 1)[..., None]
    grain = 1 + 0.06 * rng.standard_normal(shape, np.float32)
    brick = _tinted(_hsv(rng, (2, 28), (0.35, 0.7), (0.45, 0.7)), tones[rows, shifted.astype(int)])
    mortar = _hsv(rng, (20, 60), (0.0, 0.15), (0.6, 0.8))
    return (brick + joint * (mortar - brick)) * grain[..., None]


# Name of a stuff class -> its texture.
TEXTURES: dict[str, Callable[[Rng, tuple[int, int]], np.ndarray]] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "brick": _brick,
}


def random_color(rng: Rng, hue: float | None = None) -> np.ndarray:
    """A colour that is neither nearly black nor grey: RGB in [0, 1], (3,).

    Args:
        hue: in degrees, of any turn; None for any.
    """
    hues = (0, 360) if hue is None else (hue % 360, hue % 360)
    return _hsv(rng, hues, (0.4, 1.0), (0.4, 1.0))


def _hsv(rng: Rng, hue: tuple, saturation: tuple, value: tuple) -> np.ndarray:
    """RGB of a random hue (degrees), saturation and value (both in [0, 1])."""
    hsv = [[[rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)]]]
    return cv2.cvtColor(np.array(hsv, np.float32), cv2.COLOR_HSV2RGB)[0, 0]


def _tinted(color: np.ndarray, tone: np.ndarray) -> np.ndarray:
    return tone[..., None] * color


def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, float32 (H, W) each."""
    down, across = np.indices(shape, np.float32)
    return across, down


def _noise(rng: Rng, shape: tuple[int, int], cell: int | tuple[int, int]) -> np.ndarray:
    """Smooth noise of about unit variance that varies over `cell` (height, width) pixels."""
    cell = (cell, cell) if isinstance(cell, int) else cell
    coarse = rng.standard_normal([n // c + 2 for n, c in zip(shape, cell, strict=True)], np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
