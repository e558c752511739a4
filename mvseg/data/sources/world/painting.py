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
    "black": ((10, 10, 14), (38, 38, 44)),
    "white": ((238, 238, 236), (254, 254, 252)),
    "gray": ((116, 116, 118), (146, 146, 150)),
}
PEN_COLORS = ("red", "green", "blue", "purple", "brown", "black")  # colours that show on paper

FINE = 4  # masks are filled on a grid this many times finer, then averaged: anti-aliased, the same everywhere
FULL = 16  # value of a filled fine pixel; the mean over 16 of them is a whole number, so nothing is rounded
_NEAR = 150  # a thing's colour differs from its ground by at least this much, summed over R, G and B


def coverage(fine: Array) -> Array:
    """Count how many of the 16 fine pixels of each pixel are filled.

    Args:
        fine: (4 * H, 4 * W) uint8, FULL where filled.

    Returns:
        (H, W) uint8, 0 to 16.
    """
    return cv2.resize(fine, (fine.shape[1] // FINE, fine.shape[0] // FINE), interpolation=cv2.INTER_AREA)


def choose_color(chance: Chance, ground: Array, names: Sequence[str]) -> tuple[str, Array]:
    """Choose a colour that stands out from what lies under it.

    Args:
        chance: source of all that is random.
        ground: (h, w, 3) uint8 RGB, the picture where the thing will be.
        names: words of ``COLORS`` to choose from.

    Returns:
        The colour word, and an RGB value of its range (3,), int.
    """
    under = ground[::4, ::4].reshape(-1, 3).sum(0, dtype=np.int64) // max(1, ground[::4, ::4].size // 3)
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
        region: (h, w, 3) uint8 view of the picture.
        color: (h, w, 3) or (3,), 0 to 255.
        cover: (h, w) uint8, 0 to 16 sixteenths.
    """
    share = cover.astype(np.uint16)[:, :, None]
    region[:] = (region * (16 - share) + color.astype(np.uint16) * share + 8) >> 4


def paint_thing(chance: Chance, picture: Array, corner: tuple[int, int], fine: Array, ink: Array, color: Array) -> None:
    """Paint one thing with shadow, rim, shading, texture and inner lines, in place.

    Args:
        chance: source of all that is random.
        picture: (H, W, 3) uint8 RGB.
        corner: (y, x) of the upper left pixel of the masks.
        fine: (4 * h, 4 * w) uint8, FULL on the silhouette.
        ink: the same for the inner lines, or empty.
        color: RGB (3,).
    """
    cover = coverage(fine)
    (y, x), (h, w) = corner, cover.shape
    shadow = picture[y + 2 : y + 2 + h, x + 2 : x + 2 + w]
    blend(shadow, np.zeros(3), cover[: shadow.shape[0], : shadow.shape[1]] * 5 >> 4)
    body = np.clip((color * _shade(chance, h, w)[:, :, None]) >> 8, 0, 255).astype(np.uint8)
    dark = _dark(color)
    inner = cv2.erode(cover, np.ones((3, 3), np.uint8))
    rim = (cover - inner).astype(np.uint8)
    blend(body, dark, np.minimum(rim * 12 >> 4, 16).astype(np.uint8))
    if ink.size:
        blend(body, dark, coverage(ink))
    blend(picture[y : y + h, x : x + w], body, cover)


def _dark(color: Array) -> Array:
    """Colour of rims and inner lines: darker than the body, or lighter if that is nearly black."""
    return color * 110 >> 8 if color.sum() > 150 else color + 96


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
        picture: (H, W, 3) uint8 RGB.
        corner: (y, x) of the upper left pixel of the masks.
        fine: (4 * h, 4 * w) uint8, FULL on the silhouette.
        ink: the same for the inner lines, or empty.
        color: RGB (3,) of the pen.
    """
    cover = coverage(fine)
    (y, x), (h, w) = corner, cover.shape
    region = picture[y : y + h, x : x + w]
    blend(region, np.array([252, 251, 247]), cover)  # the paper hides what lies behind
    rows, columns = np.arange(h * FINE)[:, None], np.arange(w * FINE)[None]
    a, b = chance.pick(((1, 1), (1, -1), (2, 1), (2, -1)))
    period = FINE * chance.between(5, 9) * (abs(a) + abs(b)) // 2
    lines = np.where((rows * a + columns * b) % period < FINE, fine, 0).astype(np.uint8)
    blend(region, color, coverage(lines) * 10 >> 4)
    stroke = np.zeros_like(fine)
    contours, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for _ in range(2):
        for contour in contours:
            points = contour[:: 5 * FINE, 0]
            if len(points) >= 3:
                wobble = np.array([chance.between(-FINE, FINE) for _ in range(2 * len(points))])
                cv2.polylines(stroke, [points + wobble.reshape(-1, 2).astype(np.int32)], True, FULL, FINE)
    blend(region, color, coverage(stroke))
    if ink.size:
        blend(region, color, coverage(ink))
