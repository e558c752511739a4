"""Outlines of the things of the world: little drawings, and glyphs of the font that matplotlib carries.

An outline is written as text, one line of ``things.tsv``:

- ``glyph:U+2602`` the glyph as printed, ``filled:U+2615`` its silhouette with the print as inner lines,
- ``draw: STEP; STEP; ...`` a drawing on a board from -100 to 100, y down. A step is an operation and whole numbers:
  ``o x y r`` or ``o x y rx ry`` (ellipse), ``b x0 y0 x1 y1`` (box), ``r x0 y0 x1 y1 radius`` (rounded box),
  ``p x y x y ...`` (polygon), ``s x y x y ...`` (smooth closed curve), ``l width x y x y ...`` (line with round ends),
  ``c width x y x y ...`` (the same through a smooth open curve), ``n x y radius corners inner`` (star, or with inner 0
  a regular polygon), ``g code x y height`` (a glyph as part). Marks before the operation: ``-`` cuts out, ``*`` draws
  inner lines, ``/`` adds the mirrored step too, ``|`` closes a half outline (right side, top to bottom) by its mirror.

The board is painted once on a fine grid and its contours are followed, so that a thing costs one filled polygon later.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

UNIT = 512  # an outline fits the square from -UNIT to UNIT and touches two opposite sides of it
_BOARD = 1280  # side of the fine grid on which a drawing is painted
_SCALE = 5  # fine pixels per unit of the board, which so has room for drawings from -128 to 128
_STEP = re.compile(r"^([-*/|]*)([obrpslcng])\s+(.*)$")


@dataclass(frozen=True)
class Outline:
    """Outline of a thing, loops of whole numbers within -UNIT to UNIT, filled by the even-odd rule.

    Args:
        body: loops (k, 2) of the silhouette; inner loops are holes.
        ink: loops of the inner lines, painted darker on the body; may be empty.
    """

    body: tuple[Array, ...]
    ink: tuple[Array, ...]


@functools.cache
def read_outline(text: str) -> Outline:
    """Read the outline of a thing; the result is kept for the life of the process.

    Args:
        text: an outline in the notation of this module.

    Returns:
        The outline.

    Raises:
        ValueError: if the text is no outline.
    """
    kind, _, rest = text.partition(":")
    body = np.zeros((_BOARD, _BOARD), np.uint8)
    ink = np.zeros_like(body)
    if kind == "draw":
        for step in rest.split(";"):
            _paint_step(body, ink, step.strip())
    elif kind in ("glyph", "filled"):
        loops = _glyph(rest, (0.0, 0.0), 200.0)
        cv2.fillPoly(body, [_to_board(loop) for loop in loops], 1)
        if kind == "filled":
            ink, body = body, np.zeros_like(body)
            outer, _ = cv2.findContours(ink, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.fillPoly(body, outer, 1)
    else:
        raise ValueError(f"outline {text!r}: must begin with 'draw:', 'glyph:' or 'filled:'")
    if not body.any():
        raise ValueError(f"outline {text!r}: it covers nothing")
    return _follow(body, ink & body)


def _paint_step(body: Array, ink: Array, step: str) -> None:
    match = _STEP.match(step)
    if match is None:
        raise ValueError(f"outline step {step!r}: expected marks of '-*/|', one of 'obrpslcng', and numbers")
    marks, operation, rest = match.groups()
    layer, value = (ink if "*" in marks else body), (0 if "-" in marks else 1)
    parts = _parts(operation, rest.split(), "|" in marks)
    if "/" in marks:
        parts = parts + [[loop * (-1, 1) for loop in part] for part in parts]
    for part in parts:
        cv2.fillPoly(layer, [_to_board(loop) for loop in part], value)


def _parts(operation: str, words: Sequence[str], halves: bool) -> list[list[Array]]:
    """Turn a step into parts that are filled one after the other, each a list of loops (even-odd)."""
    if operation == "g":
        return [_glyph(words[0], (float(words[1]), float(words[2])), float(words[3]))]
    v = [float(word) for word in words]
    if operation == "o":
        return [[_ellipse(v[0], v[1], v[2], v[3] if len(v) > 3 else v[2])]]
    if operation == "b":
        return [[_box(*v)]]
    if operation == "r":
        x0, y0, x1, y1, radius = v
        corners = [(x0 + radius, y0 + radius), (x1 - radius, y0 + radius)]
        corners += [(x1 - radius, y1 - radius), (x0 + radius, y1 - radius)]
        discs = [[_ellipse(x, y, radius, radius)] for x, y in corners]
        across, down = (x0, y0 + radius, x1, y1 - radius), (x0 + radius, y0, x1 - radius, y1)
        return [*discs, [_box(*across)], [_box(*down)]]
    if operation == "n":
        x, y, radius, corners, inner = v
        count = int(corners) * (2 if inner else 1)
        angles = [2 * math.pi * k / count - math.pi / 2 for k in range(count)]
        radii = [inner if inner and k % 2 else radius for k in range(count)]
        return [[np.array([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])]]
    if operation in "lc":
        points = np.array(v[1:]).reshape(-1, 2)
        return _line(_smooth(points, closed=False) if operation == "c" else points, v[0])
    points = np.array(v).reshape(-1, 2)
    if halves:
        points = np.concatenate([points, points[::-1] * (-1, 1)])
    return [[_smooth(points, closed=True) if operation == "s" else points]]


def _box(x0: float, y0: float, x1: float, y1: float) -> Array:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _ellipse(x: float, y: float, rx: float, ry: float) -> Array:
    angles = [2 * math.pi * k / 64 for k in range(64)]
    return np.array([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles])


def _line(points: Array, width: float) -> list[list[Array]]:
    """Thick line with round ends and joints."""
    parts = [[_ellipse(x, y, width / 2, width / 2)] for x, y in points]
    for a, b in itertools.pairwise(points):
        length = math.hypot(*(b - a))
        if length:
            side = np.array([a[1] - b[1], b[0] - a[0]]) * (width / 2 / length)
            parts.append([np.array([a + side, b + side, b - side, a - side])])
    return parts


def _smooth(points: Array, closed: bool) -> Array:
    """Run a Catmull-Rom curve through points, 8 pieces between two of them."""
    if closed:
        before, after, last = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
        first = points
    else:
        around = np.concatenate([points[:1] * 2 - points[1:2], points, points[-1:] * 2 - points[-2:-1]])
        before, first, after, last = around[:-3], around[1:-2], around[2:-1], around[3:]
    t = (np.arange(8) / 8)[:, None, None]
    curve = 0.5 * (
        2 * first
        + (after - before) * t
        + (2 * before - 5 * first + 4 * after - last) * t**2
        + (3 * first - before - 3 * after + last) * t**3
    )
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


@functools.cache
def _font() -> Any:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"))
    return font


def _glyph(code: str, centre: tuple[float, float], height: float) -> list[Array]:
    """Read the loops of a glyph, flattened, with the larger side of its box as asked."""
    from matplotlib.ft2font import LoadFlags
    from matplotlib.path import Path as Curves

    font, character = _font(), int(code.removeprefix("U+"), 16)
    if character not in font.get_charmap():
        raise ValueError(f"outline: the font has no glyph {code}")
    font.load_char(character, flags=LoadFlags.NO_SCALE)
    vertices, codes = font.get_path()
    loops: list[Array] = []
    pen: list[Array] = []
    position = 0
    while position < len(codes):
        kind, here = codes[position], vertices[position]
        if kind == Curves.MOVETO:
            pen = [here]
        elif kind == Curves.LINETO:
            pen.append(here)
        elif kind == Curves.CURVE3:
            start, end = pen[-1], vertices[position + 1]
            pen += [(1 - t) ** 2 * start + 2 * t * (1 - t) * here + t**2 * end for t in (0.25, 0.5, 0.75, 1.0)]
            position += 1
        elif kind == Curves.CLOSEPOLY:
            loops.append(np.array(pen) * (1, -1))
        else:
            raise ValueError(f"outline: glyph {code} has a curve of kind {kind}, only lines and conics are read")
        position += 1
    points = np.concatenate(loops)
    low, high = points.min(0), points.max(0)
    return [(loop - (low + high) / 2) * (height / (high - low).max()) + centre for loop in loops]


def _to_board(loop: Array) -> Array:
    # A little more than one half: what lies halfway between two pixels is rounded alike with every math library.
    return np.floor(loop * _SCALE + _BOARD // 2 + 0.5001).astype(np.int32)


def _follow(body: Array, ink: Array) -> Outline:
    """Follow the contours of the painted board and fit them to the unit square, in whole numbers."""
    x, y, w, h = cv2.boundingRect(body)
    side = max(w, h)

    def loops(layer: Array) -> tuple[Array, ...]:
        contours, _ = cv2.findContours(layer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        found = [cv2.approxPolyDP(contour, 2, True)[:, 0].astype(np.int64) for contour in contours]
        fitted = [((2 * loop - (2 * x + w - 1, 2 * y + h - 1)) * UNIT * 2 + side) // (2 * side) for loop in found]
        return tuple(loop for loop in fitted if len(loop) >= 3)

    return Outline(loops(body), loops(ink))
