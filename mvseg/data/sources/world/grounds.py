"""The grounds of the world: stuff with a name, one to three regions of it behind the things of a scene.

A ground is a pattern of grey steps (0 to 255) and three colours through which the steps run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .chance import Chance
from .filling import fill

Array = NDArray[Any]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Ground:
    """A stuff class.

    Args:
        name: its English name.
        synonyms: other names.
        parents: direct hypernyms.
        definition: one sentence.
        place: "above" or "below": where it lies when a scene has several grounds.
        colors: RGB of the lowest, the middle and the highest step of the pattern.
        pattern: draws the steps (H, W) uint8 for a picture of a given height and width.
    """

    name: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    definition: str
    place: str
    colors: tuple[Color, Color, Color]
    pattern: Callable[[Chance, int, int], Array]


def _mix(first: Array, second: Array, share: int) -> Array:
    """Mix two patterns, ``share`` of 256 parts of the first."""
    return ((first.astype(np.uint16) * share + second.astype(np.uint16) * (256 - share)) >> 8).astype(np.uint8)


def _sky(chance: Chance, h: int, w: int) -> Array:
    ramp = np.repeat((np.arange(h) * 200 // h).astype(np.uint8)[:, None], w, 1)
    return _mix(ramp, chance.noise(h, w, 6, 4), 120)


def _wallpaper(chance: Chance, h: int, w: int) -> Array:
    stripe = max(4, w // chance.between(10, 22))
    wave = ((np.arange(w) // stripe) % 2 * 130 + 50).astype(np.uint8)
    return _mix(np.repeat(wave[None], h, 0), chance.noise(h, w, 5, 5), 190)


def _bricks(chance: Chance, h: int, w: int) -> Array:
    tall = max(5, h // chance.between(12, 20))
    wide, joint = tall * 2 + 1, max(1, tall // 7)
    rows, columns = h // tall + 1, w // wide + 2
    tones = chance.noise(rows, columns, rows, columns) // 2 + 20
    picture = np.repeat(tones, wide, 1)
    picture[:, ::wide] = 255
    picture[:, :joint] = picture[:, :joint]
    for extra in range(1, joint):
        picture[:, extra::wide] = 255
    shift = wide // 2
    lines = np.stack([row[(shift if number % 2 else 0) :][:w] for number, row in enumerate(picture)])
    picture = np.repeat(lines, tall, 0)[:h]
    for extra in range(joint):
        picture[extra::tall] = 255
    return picture


def _leaves(chance: Chance, h: int, w: int) -> Array:
    return _mix(chance.noise(h, w, h // 9, w // 9), chance.noise(h, w, 5, 5), 170)


def _grass(chance: Chance, h: int, w: int) -> Array:
    return _mix(chance.noise(h, w, h // 10, w // 3), chance.noise(h, w, 4, 4), 150)


def _water(chance: Chance, h: int, w: int) -> Array:
    return _mix(chance.noise(h, w, h // 5, w // 28), chance.noise(h, w, 4, 3), 170)


def _sand(chance: Chance, h: int, w: int) -> Array:
    ripple = chance.noise(h, w, h // 14, 3)
    return _mix(chance.noise(h, w, h // 2, w // 2), ripple, 90)


def _snow(chance: Chance, h: int, w: int) -> Array:
    return _mix(chance.noise(h, w, 7, 5), chance.noise(h, w, h // 8, w // 4), 190)


def _gravel(chance: Chance, h: int, w: int) -> Array:
    stones = chance.noise(h, w, h // 5, w // 5)
    return np.where(stones > 128, stones, stones // 2 + 40).astype(np.uint8)


def _road(chance: Chance, h: int, w: int) -> Array:
    return _mix(chance.noise(h, w, h // 2, w // 2), chance.noise(h, w, 4, 6), 80)


def _planks(chance: Chance, h: int, w: int) -> Array:
    tall = max(6, h // chance.between(7, 12))
    rows = h // tall + 1
    tones = np.repeat(np.repeat(chance.noise(rows, 1, rows, 1), tall, 0)[:h], w, 1)
    picture = _mix(tones, chance.noise(h, w, h // 2, 4), 130)
    picture[::tall] = 0
    return picture


def _tiles(chance: Chance, h: int, w: int) -> Array:
    side = max(6, w // chance.between(8, 14))
    rows, columns = np.arange(h) // side, np.arange(w) // side
    picture = ((rows[:, None] + columns[None]) % 2 * 110 + 90).astype(np.uint8)
    picture[::side] = 0
    picture[:, ::side] = 0
    return _mix(picture, chance.noise(h, w, 4, 4), 200)


def _soil(chance: Chance, h: int, w: int) -> Array:
    return _mix(chance.noise(h, w, h // 4, w // 6), chance.noise(h, w, 6, 6), 120)


GROUND_TABLE: tuple[Ground, ...] = (
    Ground("sky", ("heaven",), ("nature",), "The air above the earth.", "above",
           ((92, 150, 214), (140, 188, 232), (206, 224, 240)), _sky),
    Ground("wallpaper", (), ("wall",), "Striped paper on the wall of a room.", "above",
           ((176, 150, 150), (206, 186, 176), (226, 214, 198)), _wallpaper),
    Ground("brick wall", ("brickwork",), ("wall",), "A wall of burnt stones with mortar between them.", "above",
           ((112, 58, 46), (156, 88, 70), (188, 176, 164)), _bricks),
    Ground("foliage", ("leaves", "bushes"), ("vegetation",), "Many leaves of bushes and trees.", "above",
           ((24, 52, 30), (48, 86, 42), (92, 128, 62)), _leaves),
    Ground("grass", ("lawn", "meadow"), ("vegetation",), "Low green plants that cover a field.", "below",
           ((70, 112, 46), (104, 148, 62), (146, 184, 88)), _grass),
    Ground("water", ("lake", "sea"), ("nature",), "The surface of a lake or of the sea.", "below",
           ((26, 74, 108), (48, 112, 142), (108, 168, 182)), _water),
    Ground("sand", ("beach",), ("natural ground",), "Loose tiny grains as on a beach.", "below",
           ((186, 160, 112), (208, 184, 138), (226, 206, 164)), _sand),
    Ground("snow", (), ("natural ground",), "Frozen water that covers the land in winter.", "below",
           ((196, 208, 222), (224, 232, 240), (246, 249, 252)), _snow),
    Ground("gravel", ("pebbles",), ("natural ground",), "A layer of small stones.", "below",
           ((98, 94, 92), (128, 124, 118), (168, 162, 152)), _gravel),
    Ground("road", ("asphalt", "street"), ("paved ground",), "A dark paved way for vehicles.", "below",
           ((56, 58, 64), (78, 80, 86), (104, 106, 110)), _road),
    Ground("wooden floor", ("floorboards",), ("floor",), "A floor of long boards.", "below",
           ((96, 62, 36), (150, 104, 64), (192, 146, 98)), _planks),
    Ground("tiles", ("tiled floor",), ("floor",), "A floor of square plates in two tones.", "below",
           ((92, 98, 104), (158, 164, 164), (214, 214, 206)), _tiles),
    Ground("soil", ("earth", "dirt"), ("natural ground",), "Bare brown ground in which plants grow.", "below",
           ((56, 42, 34), (86, 64, 50), (122, 94, 72)), _soil),
)  # fmt: skip

GROUNDS: tuple[str, ...] = tuple(ground.name for ground in GROUND_TABLE)


def draw_ground(chance: Chance, size: int, sketch: bool) -> tuple[Array, Array]:
    """Draw the ground of a scene: one region, two with a horizon, or a third one that lies in the lower of these.

    Args:
        chance: source of all that is random.
        size: side of the picture in pixels.
        sketch: whether it is drawn pale as on paper.

    Returns:
        The picture (3, size, size), uint8 RGB, and the index into ``GROUNDS`` of each pixel (size, size), uint8.
    """
    above = [number for number, ground in enumerate(GROUND_TABLE) if ground.place == "above"]
    below = chance.shuffled([number for number, ground in enumerate(GROUND_TABLE) if ground.place == "below"])
    count = chance.weighted((1, 2, 3), (35, 45, 20))
    if count == 1:
        number = chance.pick(range(len(GROUND_TABLE)))
        return _fill(chance, number, size, size, sketch), np.full((size, size), number, np.uint8)
    first = chance.pick(above)
    index = np.full((size, size), first, np.uint8)
    picture = _fill(chance, first, size, size, sketch)
    horizon = chance.between(size * 30 // 100, size * 65 // 100)
    _lay(chance, picture, index, below[0], _horizon(chance, horizon, size, GROUND_TABLE[first].name), sketch)
    if count == 3:
        _lay(chance, picture, index, below[1], _patch(chance, horizon, size), sketch)
    return picture, index


def _fill(chance: Chance, number: int, height: int, width: int, sketch: bool) -> Array:
    """Draw one ground, (3, height, width) uint8 RGB."""
    ground = GROUND_TABLE[number]
    light = chance.between(-12, 12)
    stops = np.array(ground.colors) + light + [chance.between(-7, 7) for _ in range(3)]
    if sketch:
        stops = 255 - (255 - stops) * 56 // 256
    steps = np.arange(256)[:, None]
    lower, upper = stops[0] * (128 - steps) + stops[1] * steps, stops[1] * (256 - steps) + stops[2] * (steps - 128)
    table = np.clip(np.where(steps < 128, lower, upper) >> 7, 0, 255).astype(np.uint8)
    pattern = ground.pattern(chance, height, width)
    return np.stack([cv2.LUT(pattern, np.ascontiguousarray(table[:, plane])) for plane in range(3)])


def _lay(chance: Chance, picture: Array, index: Array, number: int, loop: Array, sketch: bool) -> None:
    """Lay a ground into a region, in place."""
    low = np.maximum(loop.min(0), 0)
    region = index[low[1] : loop[:, 1].max(), low[0] : loop[:, 0].max()]
    height, width = region.shape
    mask = fill([loop - low], height, width)
    region[mask > 0] = number
    for plane, filled in zip(picture, _fill(chance, number, height, width, sketch), strict=True):
        cv2.copyTo(filled, mask, plane[low[1] :, low[0] :][:height, :width])


def _horizon(chance: Chance, height: int, size: int, above: str) -> Array:
    """Draw the lower part of a scene as a polygon; hilly under the sky and leaves, straight under a wall."""
    hilly = size // 40 if above in ("sky", "foliage") else 0
    line = [(size * step // 8, height + chance.between(-hilly, hilly)) for step in range(9)]
    return np.array([*line, (size, size), (0, size)], np.int64)


def _patch(chance: Chance, horizon: int, size: int) -> Array:
    """Draw a patch that lies in the lower part, as a polygon."""
    rx, ry = chance.between(size // 4, size // 2), chance.between((size - horizon) // 4, (size - horizon) // 2)
    x, y = chance.between(0, size), chance.between(horizon + ry, max(horizon + ry, size))
    # A lumpy ellipse through 16 directions: 256 times cosine and sine, as whole numbers.
    turns = [(256, 0), (237, 98), (181, 181), (98, 237)]
    turns += [(-s, c) for c, s in turns]
    turns += [(-c, -s) for c, s in turns]
    loop = []
    for c, s in turns:
        lump = chance.between(210, 256)
        loop.append((x + (rx * c * lump >> 16), y + (ry * s * lump >> 16)))
    return np.array(loop, np.int64)
