"""How things are painted: named colours, textures, rims, shadows, and pen strokes for sketches.

All is whole numbers, so that the pixels are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .chance import Chance

Array = NDArray[Any]

# English colour word -> the two RGB ends of its range.
COLORS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((188, 18, 26), (232, 44, 40)),
    "orange": ((240, 118, 10), (255, 146, 38)),
    "yellow": ((240, 208, 20), (255, 228, 70)),
    "green": ((20, 120, 40), (58, 180, 70)),
    "blue": ((22, 50, 170), (50, 104, 224)),
    "purple": ((92, 28, 140), (142, 64, 190)),
    "pink": ((244, 120, 172), (255, 164, 204)),
    "brown": ((92, 52, 22), (126, 76, 38)),
    "black": ((18, 18, 22), (38, 38, 44)),
    "white": ((238, 238, 236), (254, 254, 252)),
    "gray": ((116, 116, 118), (146, 146, 150)),
}
PEN_COLORS = ("red", "green", "blue", "purple", "brown", "black")  # colours that show on paper

_PAPER = np.array([252, 251, 247])

FINE = 4  # masks are filled on a grid this many times finer, then averaged: anti-aliased, the same everywhere
FULL = 16  # value of a filled fine pixel; the mean over 16 of them is a whole number, so nothing is rounded
_NEAR = 190  # a thing's colour differs from its ground by at least this much, summed over R, G and B
_CROSS = np.ones((3, 3), np.uint8)


def coverage(fine: Array) -> Array:
    """Count how many of the 16 fine pixels of each pixel are filled.

    Args:
        fine: (4 * H, 4 * W) uint8, FULL where filled.

    Returns:
        (H, W) uint8, 0 to 16.
    """
    h, w = fine.shape
    half = cv2.resize(fine, (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(half, (w // 4, h // 4), interpolation=cv2.INTER_AREA)


def choose_color(chance: Chance, ground: Array, names: Sequence[str]) -> tuple[str, Array]:
    """Choose a colour that stands out from what lies under it.

    Args:
        chance: source of all that is random.
        ground: (3, h, w) uint8 RGB, the picture where the thing will be.
        names: words of ``COLORS`` to choose from.

    Returns:
        The colour word, and an RGB value of its range (3,), int.
    """
    under = ground[:, ::4, ::4].mean((1, 2), dtype=np.float64).astype(np.int64)
    best: tuple[int, str, Array] | None = None
    for name in chance.shuffled(names):
        low, high = COLORS[name]
        share = chance.between(0, 256)
        rgb = (np.array(low) * (256 - share) + np.array(high) * share) >> 8
        distance = int(np.abs(rgb - under).sum())
        if best is None or distance > best[0]:
            best = (distance, name, rgb)
        if distance >= _NEAR:
            break
    assert best is not None  # names is never empty
    return best[1], best[2]


def blend(region: Array, color: Array, cover: Array) -> None:
    """Lay a colour over a region, in place.

    Args:
        region: (3, h, w) uint8 view of the picture.
        color: (3, h, w) or (3, 1, 1), uint16, 0 to 255.
        cover: (h, w) uint8, 0 to 16 sixteenths.
    """
    share = cover.astype(np.uint16)
    mixed = region * (16 - share)
    mixed += color * share
    mixed += 8
    mixed >>= 4
    region[:] = mixed


def flat(color: Array) -> Array:
    """Shape a colour for ``blend``.

    Args:
        color: RGB (3,).

    Returns:
        (3, 1, 1) uint16.
    """
    return np.asarray(color).astype(np.uint16)[:, None, None]


def paint_thing(chance: Chance, picture: Array, corner: tuple[int, int], fine: Array, ink: Array, color: Array) -> None:
    """Paint one thing with shadow, rim, shading, texture and inner lines, in place.

    Args:
        chance: source of all that is random.
        picture: (3, H, W) uint8 RGB.
        corner: (y, x) of the upper left pixel of the masks.
        fine: (4 * h, 4 * w) uint8, FULL on the silhouette.
        ink: the same for the inner lines, or empty.
        color: RGB (3,).
    """
    cover = coverage(fine)
    (y, x), (h, w) = corner, cover.shape
    shadow = picture[:, y + 2 : y + 2 + h, x + 2 : x + 2 + w]
    dimmed = 16 - (cover[: shadow.shape[1], : shadow.shape[2]] * 5 >> 4).astype(np.uint16)
    shadow[:] = shadow * dimmed >> 4
    # Rims and inner lines are darker than the body, or lighter if that is nearly black.
    dark = 110 if color.sum() > 150 else 820
    lines = (cover - cv2.erode(cover, _CROSS)) * 12 >> 4
    if ink.size:
        lines = np.maximum(lines, coverage(ink))
    shade = _shade(chance, h, w)
    shade += (dark - shade) * lines >> 4
    body = np.minimum(flat(color).astype(np.int32) * shade >> 8, 255).astype(np.uint16)
    blend(picture[:, y : y + h, x : x + w], body, cover)


def _shade(chance: Chance, h: int, w: int) -> Array:
    """Draw light, shade and texture of a thing: (h, w) int32, 256 where its colour is unchanged."""
    rows, columns = np.arange(h, dtype=np.int32)[:, None], np.arange(w, dtype=np.int32)[None]
    down, right = chance.between(-36, 36), chance.between(-36, 36)
    shade = 256 + (down * (2 * rows - h)) // h + (right * (2 * columns - w)) // w
    texture, depth = chance.pick(("plain", "plain", "stripes", "checks", "dots", "clouds")), chance.between(16, 34)
    period = chance.between(5, 10)
    if texture == "stripes":
        a, b = chance.pick(((1, 0), (0, 1), (1, 1), (1, -1)))
        shade += np.where((rows * a + columns * b) % period < period // 2, depth, -depth)
    elif texture == "checks":
        shade += np.where((rows // period + columns // period) % 2 == 0, depth, -depth)
    elif texture == "dots":
        off = (rows % (period + 2) - period // 2) ** 2 + (columns % (period + 2) - period // 2) ** 2
        shade += np.where(off * 9 < period * period, 2 * depth, 0)
    elif texture == "clouds":
        shade += (chance.noise(h, w, h // 9 + 1, w // 9 + 1).astype(np.int32) - 128) * depth >> 6
    return shade


def sketch_thing(
    chance: Chance, picture: Array, corner: tuple[int, int], fine: Array, ink: Array, color: Array
) -> None:
    """Draw one thing with a coloured pen on white: doubled wobbly contour and hatching, in place.

    Args:
        chance: source of all that is random.
        picture: (3, H, W) uint8 RGB.
        corner: (y, x) of the upper left pixel of the masks.
        fine: (4 * h, 4 * w) uint8, FULL on the silhouette.
        ink: the same for the inner lines, or empty.
        color: RGB (3,) of the pen.
    """
    cover = coverage(fine)
    (y, x), (h, w) = corner, cover.shape
    region = picture[:, y : y + h, x : x + w]
    blend(region, flat(_PAPER), cover)  # the paper hides what lies behind
    lines = np.zeros_like(fine)
    slope, gap = chance.pick((h, -h, 2 * h, -2 * h)) * FINE // 2, FINE * chance.between(6, 10)
    for start in range(-abs(slope), w * FINE + abs(slope), gap):
        cv2.line(lines, (start, 0), (start + slope, h * FINE), FULL, FINE // 2)
    blend(region, flat(color), coverage(np.minimum(lines, fine)) * 11 >> 4)
    stroke = np.zeros_like(fine)
    contours, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for _ in range(2):
        for contour in contours:
            points = contour[:: 5 * FINE, 0]
            if len(points) >= 3:
                wobble = np.array([chance.between(-FINE, FINE) for _ in range(2 * len(points))])
                cv2.polylines(stroke, [points + wobble.reshape(-1, 2).astype(np.int32)], True, FULL, FINE)
    blend(region, flat(color), coverage(stroke))
    if ink.size:
        blend(region, flat(color), coverage(ink))
