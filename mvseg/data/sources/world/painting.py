"""How things are painted: named colours, textures, rims, shadows, and pen strokes for sketches.

All is whole numbers, so that the pixels are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .chance import Chance
from .filling import FINE, FULL, shrink

Array = NDArray[Any]


@dataclass(frozen=True)
class FilledThing:
    """A thing at its size and angle, before it has a place.

    Args:
        loops: its contour (k, 2) each, in fine pixels from its upper left corner.
        body: coverage by its silhouette (h, w), uint8, 0 to FULL; its rim of two pixels is empty.
        ink: coverage by its inner lines (h, w), or None.
    """

    loops: list[Array]
    body: Array
    ink: Array | None


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

_NEAR = 190  # a thing's colour differs from its ground by at least this much, summed over R, G and B
_SQUARE = np.ones((3, 3), np.uint8)


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


def paint_thing(chance: Chance, picture: Array, corner: tuple[int, int], shape: FilledThing, color: Array) -> None:
    """Paint one thing with shadow, rim, shading, texture and inner lines, in place.

    Args:
        chance: source of all that is random.
        picture: (3, H, W) uint8 RGB.
        corner: (y, x) of the upper left pixel of the thing.
        shape: the thing, filled.
        color: RGB (3,).
    """
    cover = shape.body
    (y, x), (h, w) = corner, cover.shape
    shadow = picture[:, y + 2 : y + 2 + h, x + 2 : x + 2 + w]
    dimmed: Array = shadow * (16 - (cover[: shadow.shape[1], : shadow.shape[2]] * 5 >> 4).astype(np.uint16))
    shadow[:] = dimmed >> 4
    # Rims and inner lines are darker than the body, or lighter if that is nearly black.
    dark = 110 if color.sum() > 150 else 820
    lines = (cover - cv2.erode(cover, _SQUARE)).astype(np.int32) * 12 >> 4
    if shape.ink is not None:
        lines = np.maximum(lines, shape.ink)
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


def sketch_thing(chance: Chance, picture: Array, corner: tuple[int, int], shape: FilledThing, color: Array) -> None:
    """Draw one thing with a coloured pen on white: doubled wobbly contour and hatching, in place.

    Args:
        chance: source of all that is random.
        picture: (3, H, W) uint8 RGB.
        corner: (y, x) of the upper left pixel of the thing.
        shape: the thing, filled.
        color: RGB (3,) of the pen.
    """
    cover = shape.body
    (y, x), (h, w) = corner, cover.shape
    region = picture[:, y : y + h, x : x + w]
    blend(region, flat(_PAPER), cover)  # the paper hides what lies behind
    layer = np.zeros((h * FINE, w * FINE), np.uint8)
    slope, gap = chance.pick((h, -h, 2 * h, -2 * h)) * FINE // 2, FINE * chance.between(6, 10)
    for start in range(-abs(slope), w * FINE + abs(slope), gap):
        cv2.line(layer, (start, 0), (start + slope, h * FINE), FULL, FINE // 2)
    lines = np.minimum(shrink(layer) * 11 >> 4, cover)
    layer[:] = 0
    for loop in shape.loops:
        points = _resample(loop, 4 * FINE)
        if len(points) < 3:
            continue  # a hole too small for a pen
        for _ in range(2):
            wobble = chance.noise(*points.shape, *points.shape) % (2 * FINE + 1) - np.int64(FINE)
            cv2.polylines(layer, [(points + wobble).astype(np.int32)], True, FULL, FINE)
    lines = np.maximum(lines, shrink(layer))
    blend(region, flat(color), lines if shape.ink is None else np.maximum(lines, shape.ink))


def _resample(loop: Array, step: int) -> Array:
    """Cut long edges of a loop in pieces, and leave out corners that are close to the one before."""
    corners = loop.tolist()
    x, y = corners[-1]
    points = []
    for next_x, next_y in corners:
        pieces = max(abs(next_x - x), abs(next_y - y)) // step
        if pieces:
            ways = range(1, pieces + 1)
            points += [(x + (next_x - x) * way // pieces, y + (next_y - y) * way // pieces) for way in ways]
            x, y = next_x, next_y
    return np.array(points, np.int64).reshape(-1, 2)
