"""Scenes of the world: things of ``things.tsv`` that may cover one another in part, on grounds, with exact masks."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mvseg.vocabulary import did_you_mean

from .chance import Chance
from .filling import FINE, FULL, cover, shrink
from .grounds import draw_ground
from .outlines import UNIT
from .painting import COLORS, PEN_COLORS, FilledThing, blend, choose_color, flat, paint_thing, sketch_thing
from .things import Thing, things

Array = NDArray[Any]

STYLES = ("plain", "sketch")
_MARGIN = 2  # pixels around a thing, for its rim and strokes
_TURN = 4096  # sines and cosines are whole multiples of one part in this many


@dataclass(frozen=True)
class SceneSpec:
    """What to draw.

    Args:
        seed: the same numbers give the same scene.
        size: side of the picture in pixels, at least 48.
        things: names of the things that may appear; None: all.
        weights: how often each of them appears; None: all alike.
        min_objects: fewest objects (besides the dominant one).
        max_objects: most objects.
        style: "plain", or "sketch" for pen on paper.
        dominant: name of a thing that is drawn once and large; None: none.
    """

    seed: tuple[int, ...]
    size: int = 256
    things: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    min_objects: int = 3
    max_objects: int = 8
    style: str = "plain"
    dominant: str | None = None


@dataclass
class DrawnThing:
    """One object of a scene.

    Args:
        thing: its name in ``things()``.
        color: English colour word as it is painted.
        mask: visible pixels (H, W), bool; at least half of ``full_area``.
        full_area: pixels it would have if nothing lay before it.
    """

    thing: str
    color: str
    mask: Array
    full_area: int

    @functools.cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box of the visible pixels.

        Returns:
            (x, y, width, height) in pixels.
        """
        x, y, width, height = cv2.boundingRect(self.mask.view(np.uint8))
        return int(x), int(y), int(width), int(height)


@dataclass
class Scene:
    """A drawn scene.

    Args:
        image: (H, W, 3), uint8 RGB.
        objects: its things from back to front.
        ground: index into ``GROUNDS`` of the ground at each pixel, also behind things (H, W), uint8.
    """

    image: Array
    objects: list[DrawnThing]
    ground: Array


@dataclass
class _Canvas:
    """A scene while it is painted."""

    image: Array  # (3, H, W): the three planes apart, which is faster to paint
    owner: Array  # index of the front-most object at each pixel, 255 where there is none
    names: list[str] = field(default_factory=list)
    colors: list[str] = field(default_factory=list)
    full_areas: list[int] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)


def draw_scene(spec: SceneSpec) -> Scene:
    """Draw one scene: grounds, scribbles that are no things, and objects at least half visible.

    Args:
        spec: what to draw.

    Returns:
        The scene; it has fewer than ``min_objects`` only if no free place was found in many tries.

    Raises:
        ValueError: if the spec names unknown things or an unknown style, or its numbers do not fit.
    """
    names, weights = _check(spec)
    chance = Chance(spec.seed)
    image, ground = draw_ground(chance, spec.size, spec.style == "sketch")
    _scribble(chance, image, spec.style)
    canvas = _Canvas(image, np.full(ground.shape, 255, np.uint8))
    if spec.dominant is not None:
        _add(chance, canvas, things()[spec.dominant], spec.style, (55, 80))
    for _ in range(chance.between(spec.min_objects, spec.max_objects) if names else 0):
        name = chance.weighted(names, weights)
        if canvas.names and canvas.names[-1] in names and chance.share() < 0.12:
            name = canvas.names[-1]  # now and then several of a kind
        _add(chance, canvas, things()[name], spec.style, _sizes(chance))
    objects = [
        DrawnThing(name, color, canvas.owner == number, area)
        for number, (name, color, area) in enumerate(zip(canvas.names, canvas.colors, canvas.full_areas, strict=True))
    ]
    return Scene(cv2.merge(list(canvas.image)), objects, ground)


def _check(spec: SceneSpec) -> tuple[Sequence[str], Sequence[float]]:
    names = list(things()) if spec.things is None else list(spec.things)
    weights = [1.0] * len(names) if spec.weights is None else list(spec.weights)
    unknown = [name for name in [*names, spec.dominant] if name is not None and name not in things()]
    if unknown:
        raise ValueError(f"scene: the world has no thing {unknown[0]!r}{did_you_mean(unknown[0], things())}")
    if spec.style not in STYLES:
        raise ValueError(f"scene: style {spec.style!r} is not one of {', '.join(STYLES)}")
    if len(weights) != len(names) or min(weights, default=1) < 0 or (weights and not sum(weights)):
        raise ValueError(f"scene: need a weight >= 0 for each of the {len(names)} things, not all 0")
    if spec.size < 48 or not 0 <= spec.min_objects <= spec.max_objects <= 100:
        raise ValueError(
            "scene: need size >= 48 and 0 <= min_objects <= max_objects <= 100, "
            f"got {spec.size}, {spec.min_objects}, {spec.max_objects}"
        )
    return names, weights


def _sizes(chance: Chance) -> tuple[int, int]:
    """Choose a range for the longer side of an object, in percent of the picture."""
    return chance.weighted(((9, 14), (14, 22), (20, 32), (30, 45), (45, 60)), (6, 32, 34, 23, 5))


def _add(chance: Chance, canvas: _Canvas, thing: Thing, style: str, sizes: tuple[int, int]) -> None:
    """Draw a thing where every object stays at least half visible; the smaller, the longer no place is found."""
    size = canvas.owner.shape[0]
    for attempt in range(24):
        percent = chance.between(*sizes) * (24 - attempt) // 24
        side = max(12, size * max(percent, 8) // 100)
        shape = fill_thing(chance, thing, side)
        h, w = shape.body.shape
        if h > size or w > size:
            continue
        y, x = chance.between(0, size - h), chance.between(0, size - w)
        under = canvas.owner[y : y + h, x : x + w]
        mask = shape.body >= FULL // 2
        area = cv2.countNonZero(mask.view(np.uint8))
        hidden = np.bincount(under[mask], minlength=256)
        if area < 12 or any(2 * (v - n) < f for v, n, f in zip(canvas.visible, hidden, canvas.full_areas)):
            continue
        names = PEN_COLORS if style == "sketch" else tuple(COLORS)
        color, rgb = choose_color(chance, canvas.image[:, y : y + h, x : x + w], names)
        paint = sketch_thing if style == "sketch" else paint_thing
        paint(chance, canvas.image, (y, x), shape, rgb)
        under[mask] = len(canvas.names)
        canvas.visible = [int(v - n) for v, n in zip(canvas.visible, hidden)] + [area]
        canvas.names.append(thing.name)
        canvas.colors.append(color)
        canvas.full_areas.append(area)
        return


def fill_thing(chance: Chance, thing: Thing, side: int) -> FilledThing:
    """Fill a thing, rotated, a little slimmer, and perhaps flipped.

    Args:
        chance: source of all that is random.
        thing: what.
        side: its longer side in pixels, before it is rotated.

    Returns:
        The filled thing.
    """
    angle = chance.between(-thing.turn, thing.turn)
    flip = -1 if thing.flip and chance.share() < 0.5 else 1
    c, s = _cosine(angle), _cosine(angle - 90)
    squeeze = chance.between(226, 256)  # parts of 256: things are not all equally slim
    turn = np.array([[c * flip * squeeze, s * flip * squeeze], [-s * 256, c * 256]], np.int64) * (side * FINE // 2)
    scale = _TURN * 256 * UNIT
    body = [(loop @ turn + scale // 2) // scale for loop in thing.outline.body]
    points = np.concatenate(body)
    low = points.min(0) - _MARGIN * FINE
    width, height = ((points.max(0) - low) // FINE + 1 + _MARGIN).tolist()
    body = [loop - low for loop in body]
    ink = [(loop @ turn + scale // 2) // scale - low for loop in thing.outline.ink]
    return FilledThing(body, cover(body, height, width), cover(ink, height, width) if ink else None)


@functools.cache
def _cosine(degrees: int) -> int:
    return round(math.cos(math.radians(degrees)) * _TURN)


def _scribble(chance: Chance, image: Array, style: str) -> None:
    """Draw short curved strokes and specks that are no things into a picture (3, H, W), in place."""
    size = image.shape[1]
    for _ in range(chance.between(2, 7)):
        heading, bend, length = chance.between(0, 359), chance.between(-16, 16), chance.between(2, 10)
        step = size * FINE // 36
        points = [(0, 0)]
        for number in range(length):
            angle = heading + bend * number
            x, y = points[-1]
            points.append((x + (_cosine(angle) * step // _TURN), y + (_cosine(angle - 90) * step // _TURN)))
        loop = np.array(points, np.int32)
        loop += 2 * FINE - loop.min(0)
        w, h = ((loop.max(0) + 2 * FINE) // FINE + 1).tolist()
        if h >= size or w >= size:
            continue
        layer = np.zeros((h * FINE, w * FINE), np.uint8)
        cv2.polylines(layer, [loop], False, FULL, chance.between(3, 7))
        y, x = chance.between(0, size - h), chance.between(0, size - w)
        region = image[:, y : y + h, x : x + w]
        gap = 60 if style == "plain" else 100
        color = np.clip(region[:, 0, 0].astype(int) + [chance.between(-gap, gap) for _ in range(3)], 0, 255)
        blend(region, flat(color), shrink(layer) * 12 >> 4)
