"""Outlines of the things of the world: little drawings, and glyphs of the font that matplotlib carries.

An outline is written as text, one line of ``things.tsv``:

- ``glyph:U+2602`` the glyph as printed, ``filled:U+2615`` its silhouette with the print as inner lines,
- ``draw: STEP; STEP; ...`` a drawing on a board from -100 to 100, y down. A step is an operation and whole numbers:
  ``o x y r`` or ``o x y rx ry`` (ellipse), ``b x0 y0 x1 y1`` (box), ``r x0 y0 x1 y1 radius`` (rounded box),
  ``p x y x y ...`` (polygon), ``s x y x y ...`` (smooth closed curve), ``l width x y x y ...`` (line with round ends),
  ``c width x y x y ...`` (the same through a smooth open curve), ``n x y radius corners inner`` (star, or with inner 0
  a regular polygon), ``g code x y height`` (a glyph as part). Marks before the operation: ``-`` cuts out, ``*`` draws
  inner lines, ``/`` adds the mirrored step too, ``|`` closes a half outline (right side, top to bottom) by its mirror.

The board is painted once on a fine grid and its contours are followed, so that a thing costs one filling later.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib import ft2font
from matplotlib.path import Path as Curves
from numpy.typing import NDArray

from .filling import fill

Array = NDArray[Any]

UNIT = 512  # an outline fits the square from -UNIT to UNIT and touches two opposite sides of it
_BOARD = 1280  # side of the fine grid on which a drawing is painted
_NEAR = 2  # contours are followed this exactly, in fine pixels
_SCALE = 5  # fine pixels per unit of the board, which so has room for drawings from -128 to 128
_EM = 2048  # font units of the font; at this size a glyph comes in whole font units, nothing is rounded
# matplotlib 3.9 has the flag as a number.
_NO_HINTING: Any = ft2font.LoadFlags.NO_HINTING if hasattr(ft2font, "LoadFlags") else 2
_STEP = re.compile(r"^([-*/|]*)([obrpslcng])\s+(.*)$")


@dataclass(frozen=True)
class Outline:
    """Outline of a thing: loops of whole numbers within -UNIT to UNIT.

    Args:
        body: loops (k, 2) of the silhouette; holes run the other way round.
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
        _paint(body, [_to_board(loop) for loop in loops], 1)
        if kind == "filled":
            ink, body = body, np.zeros_like(body)
            outside = np.pad(ink, 1)
            cv2.floodFill(outside, None, (0, 0), 1)
            body |= (outside[1:-1, 1:-1] == 0) | ink
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
    words = rest.split()
    if operation in "lc":
        points = np.array(words[1:], float).reshape(-1, 2)
        points = _smooth(points, closed=False) if operation == "c" else points
        for side in (1, -1) if "/" in marks else (1,):
            line = [_to_board(points * (side, 1))]
            cv2.polylines(layer, line, False, value, int(float(words[0]) * _SCALE) | 1)
        return
    parts = _parts(operation, words, "|" in marks)
    if "/" in marks:
        parts = parts + [[loop * (-1, 1) for loop in part] for part in parts]
    for part in parts:
        _paint(layer, [_to_board(loop) for loop in part], value)


def _paint(layer: Array, loops: Sequence[Array], value: int) -> None:
    """Fill loops with a value, in place; what lies beyond the board is cut off."""
    points = np.concatenate(loops)
    low, high = np.clip(points.min(0), 0, _BOARD), np.clip(points.max(0) + 1, 0, _BOARD)
    region = layer[low[1] : high[1], low[0] : high[0]]
    region[fill([loop - low for loop in loops], *region.shape) > 0] = value


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
        x, y, radius, points_of, inner = v
        count = int(points_of) * (2 if inner else 1)
        angles = [2 * math.pi * k / count - math.pi / 2 for k in range(count)]
        radii = [inner if inner and k % 2 else radius for k in range(count)]
        return [[np.array([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])]]
    points = np.array(v).reshape(-1, 2)
    if halves:
        points = np.concatenate([points, points[::-1] * (-1, 1)])
    return [[_smooth(points, closed=True) if operation == "s" else points]]


def _box(x0: float, y0: float, x1: float, y1: float) -> Array:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _ellipse(x: float, y: float, rx: float, ry: float) -> Array:
    angles = [2 * math.pi * k / 64 for k in range(64)]
    return np.array([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles])


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
        + (2 * before - 5 * first + 4 * after - last) * (t * t)
        + (3 * first - before - 3 * after + last) * (t * t * t)
    )
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


@functools.cache
def _font() -> Any:
    font = ft2font.FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"))
    font.set_size(_EM, 72)
    return font


def _glyph(code: str, centre: tuple[float, float], height: float) -> list[Array]:
    """Read the loops of a glyph, flattened, with the larger side of its box as asked."""
    font, character = _font(), int(code.removeprefix("U+"), 16)
    if character not in font.get_charmap():
        raise ValueError(f"outline: the font has no glyph {code}")
    font.load_char(character, flags=_NO_HINTING)
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
        contours, tree = cv2.findContours(layer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        found = []
        for contour, (_, _, _, parent) in zip(contours, tree[0] if len(contours) else (), strict=True):
            loop = _simplify(contour[:, 0].astype(np.int64))
            before = np.roll(loop, 1, 0)
            area = int((before[:, 0] * loop[:, 1] - before[:, 1] * loop[:, 0]).sum())
            if area:  # outer loops one way round, holes the other way
                found.append(loop if (area > 0) == (parent < 0) else loop[::-1])
        return tuple(((2 * loop - (2 * x + w - 1, 2 * y + h - 1)) * UNIT * 2 + side) // (2 * side) for loop in found)

    return Outline(loops(body), loops(ink))


def _simplify(loop: Array) -> Array:
    """Leave out points of a contour that lie within _NEAR fine pixels of the rest (Douglas and Peucker).

    It begins at the upper left point, whatever point OpenCV's version begins with, and counts in whole numbers.
    """
    loop = np.roll(loop, -int(np.lexsort((loop[:, 0], loop[:, 1]))[0]), 0)
    far = int(((loop - loop[0]) ** 2).sum(1).argmax())
    loop = np.concatenate([loop, loop[:1]])
    keep = {0, far}
    parts = [(0, far), (far, len(loop) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        along, off = loop[last] - loop[first], loop[first + 1 : last] - loop[first]
        area = np.abs(along[0] * off[:, 1] - along[1] * off[:, 0])
        middle = int(area.argmax())
        if int(area[middle]) ** 2 > _NEAR**2 * int((along**2).sum()):
            keep.add(first + 1 + middle)
            parts += [(first, first + 1 + middle), (first + 1 + middle, last)]
    return loop[sorted(keep)]
