"""The drawn data: scenes of plain shapes on textured ground, written as real COCO files, for quickstart and tests.

Three label spaces look at the same world: ``shapes_a`` has six words with boxes and masks, ``shapes_b`` six words with
boxes only, one of them another word for a shape of ``shapes_a``; ``shapes_all`` has a word for every shape and is only
for testing. In each, shapes without a word are in the pictures but not annotated, as in real datasets.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Label space -> {shape: word}. The shape "circle" is a "circle" in one and a "disc" in the other.
WORDS: dict[str, dict[str, str]] = {
    "shapes_a": {s: s for s in ("circle", "square", "triangle", "star", "heart", "arrow")},
    "shapes_b": {"circle": "disc", **{s: s for s in ("ring", "moon", "cross", "hexagon", "flower")}},
}
WORDS["shapes_all"] = {**WORDS["shapes_a"], **{s: s for s in WORDS["shapes_b"] if s != "circle"}}

# Image folder -> the label spaces that annotate it.
FOLDERS = {"a_train": ("shapes_a",), "b_train": ("shapes_b",), "val": ("shapes_a", "shapes_b", "shapes_all")}

_FINE = 4  # the outlines are filled on a grid this many times finer, then averaged: anti-aliased, the same everywhere
_FULL = 160  # value of a filled fine pixel; the mean over 16 of them is a whole number, so nothing is rounded
_MARGIN = 3  # pixels around a shape, for its rim and its shadow
_STAMP = "shapes.json"


@dataclass
class DrawnObject:
    """One shape of a scene.

    Args:
        shape: its kind, a key of the outlines.
        mask: visible pixels (H, W), bool.
    """

    shape: str
    mask: Array

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box of the visible pixels.

        Returns:
            (x, y, width, height) in pixels.
        """
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def shape_names() -> list[str]:
    """List the shapes that can be drawn.

    Returns:
        Their names.
    """
    return list(_OUTLINES)


def draw_scene(rng: np.random.Generator, size: int) -> tuple[Array, list[DrawnObject]]:
    """Draw one scene: ground, clutter, and four to nine shapes that may cover one another in part.

    Args:
        rng: source of all that is random.
        size: side of the picture in pixels.

    Returns:
        The picture (size, size, 3), uint8 RGB, and its shapes from back to front.
    """
    picture = _ground(rng, size)
    _clutter(rng, picture)
    owner = np.full((size, size), -1, np.int16)  # index of the front-most shape at each pixel
    full_areas: list[int] = []
    shapes: list[str] = []
    for shape in rng.permutation(shape_names())[: rng.integers(4, 10)]:
        placed = _place(rng, str(shape), owner, full_areas)
        if placed is None:
            continue
        corner, fine = placed
        _paint(rng, picture, corner, fine)
        cover = _coverage(fine) >= 0.5
        y, x = corner
        owner[y : y + cover.shape[0], x : x + cover.shape[1]][cover] = len(shapes)
        full_areas.append(int(cover.sum()))
        shapes.append(str(shape))
    objects = [DrawnObject(shape, owner == index) for index, shape in enumerate(shapes)]
    return np.clip(picture, 0, 255).round().astype(np.uint8), objects


def write_shapes(
    output: str | Path, images: int = 400, val_images: int | None = None, size: int = 128, seed: int = 0
) -> bool:
    """Draw the datasets ``shapes_a``, ``shapes_b`` and ``shapes_all`` and write them as PNG and COCO JSON.

    Args:
        output: folder, normally ``$DETECTRON2_DATASETS/shapes``, where the built-in cards look.
        images: number of training images of each of shapes_a and shapes_b.
        val_images: number of validation images; None: a quarter of ``images``.
        size: side of the pictures in pixels.
        seed: the same seed gives the same data.

    Returns:
        True if it was drawn, False if the folder already holds exactly this.

    Raises:
        ValueError: if a number is too small.
    """
    val_images = max(1, images // 4) if val_images is None else val_images
    if images < 1 or val_images < 1 or size < 32:
        raise ValueError(f"shapes: need images and val_images >= 1 and size >= 32, got {images}, {val_images}, {size}")
    output = Path(output)
    wanted = {"images": images, "val_images": val_images, "size": size, "seed": seed, "version": 1}
    stamp = output / _STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return False
    stamp.unlink(missing_ok=True)
    for number, (folder, spaces) in enumerate(FOLDERS.items()):
        count = val_images if folder == "val" else images
        trees = {space: _new_tree(space) for space in spaces}
        (output / folder).mkdir(parents=True, exist_ok=True)
        for index in range(1, count + 1):
            picture, objects = draw_scene(np.random.default_rng([seed, number, index]), size)
            name = f"{index:06d}.png"
            cv2.imwrite(str(output / folder / name), picture[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
            for space, tree in trees.items():
                _add_to_tree(tree, space, index, name, size, objects)
        for space, tree in trees.items():
            split = "val" if folder == "val" else "train"
            (output / f"{space}_{split}.json").write_text(json.dumps(tree, separators=(",", ":")))
    stamp.write_text(json.dumps(wanted))
    return True


def mask_to_polygons(mask: Array) -> list[list[float]]:
    """Outline a mask; where it has holes it is cut in pieces without holes.

    Args:
        mask: (H, W), bool.

    Returns:
        Polygons [x0, y0, x1, y1, ...] in pixels whose union, filled as COCO does, is the mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    polygons: list[list[float]] = []
    for start, stop in _columns_without_holes(crop):
        fine = np.kron(crop[:, start:stop], np.ones((_FINE, _FINE), np.uint8)).astype(np.uint8)
        contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            points = cv2.approxPolyDP(contour, 1.5, True)[:, 0].astype(float)
            if len(points) >= 3:
                points = (points + 0.5) / _FINE + (left + start, top)
                polygons.append([round(float(v), 3) for v in points.reshape(-1)])
    return polygons


def _columns_without_holes(crop: Array) -> list[tuple[int, int]]:
    """Cut a mask into column ranges through the middle of its holes."""
    contours, tree = cv2.findContours(crop.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cuts = {0, crop.shape[1]}
    for contour, (_, _, _, parent) in zip(contours, tree[0], strict=True):
        if parent >= 0:
            cuts.add(int(contour[:, 0, 0].min() + contour[:, 0, 0].max() + 1) // 2)
    edges = sorted(cuts)
    return list(itertools.pairwise(edges))


def _new_tree(space: str) -> dict[str, Any]:
    words = list(WORDS[space].values())
    return {
        "info": {"description": f"{space}, drawn by mvseg"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": word} for number, word in enumerate(words, start=1)],
    }


def _add_to_tree(
    tree: dict[str, Any], space: str, image_id: int, name: str, size: int, objects: Sequence[DrawnObject]
) -> None:
    ids = {shape: number for number, shape in enumerate(WORDS[space], start=1)}
    tree["images"].append({"id": image_id, "file_name": name, "height": size, "width": size})
    for item in objects:
        if item.shape not in ids:
            continue
        annotation = {
            "id": len(tree["annotations"]) + 1,
            "image_id": image_id,
            "category_id": ids[item.shape],
            "bbox": list(item.box),
            "area": int(item.mask.sum()),
            "iscrowd": 0,
        }
        if space != "shapes_b":
            annotation["segmentation"] = mask_to_polygons(item.mask)
        tree["annotations"].append(annotation)


# ---- outlines: loops of points (k, 2) within the unit circle; inner loops are holes ----


def _polar(count: int, radius: Callable[[Array], Array | float], phase: float = -np.pi / 2) -> Array:
    angle = np.arange(count) * (2 * np.pi / count)
    r = np.broadcast_to(radius(angle), angle.shape)
    return np.stack([r * np.cos(angle + phase), r * np.sin(angle + phase)], 1)


def _heart() -> Array:
    t = np.arange(60) * (2 * np.pi / 60)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], 1) / 17


def _moon() -> Array:
    # The unit disc without a disc of radius 0.85 around (0.55, 0); the circles meet at the angle where x = cut.
    cut = (1 - 0.85**2 + 0.55**2) / (2 * 0.55)
    outer, inner = np.arccos(cut), np.arctan2(np.sqrt(1 - cut**2), cut - 0.55)
    a, b = np.linspace(outer, 2 * np.pi - outer, 40), np.linspace(2 * np.pi - inner, inner, 30)
    loop = np.concatenate(
        [np.stack([np.cos(a), np.sin(a)], 1), np.stack([0.55 + 0.85 * np.cos(b), 0.85 * np.sin(b)], 1)]
    )
    return loop + np.array([0.25, 0])


def _cross() -> Array:
    a, b = 0.32, 0.95
    quarter = np.array([[a, b], [a, a], [b, a]])
    turn = np.array([[0, -1], [1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


_ARROW = np.array([[1, 0], [0.25, 0.75], [0.25, 0.3], [-0.95, 0.3], [-0.95, -0.3], [0.25, -0.3], [0.25, -0.75]])

_OUTLINES: dict[str, Callable[[], list[Array]]] = {
    "circle": lambda: [_polar(48, lambda _: 0.95)],
    "square": lambda: [_polar(4, lambda _: 1.15, np.pi / 4)],
    "triangle": lambda: [_polar(3, lambda _: 1.1) + np.array([0, 0.15])],
    "star": lambda: [_polar(10, lambda a: np.where(np.arange(len(a)) % 2 == 0, 1.1, 0.45))],
    "heart": lambda: [_heart()],
    "arrow": lambda: [_ARROW],
    "ring": lambda: [_polar(48, lambda _: 1.0), _polar(36, lambda _: 0.55)],
    "moon": lambda: [_moon()],
    "cross": lambda: [_cross()],
    "hexagon": lambda: [_polar(6, lambda _: 1.0)],
    "flower": lambda: [_polar(72, lambda a: 0.55 + 0.45 * np.sqrt(np.abs(np.cos(2.5 * a))))],
}


# ---- painting ----


def _place(
    rng: np.random.Generator, shape: str, owner: Array, full_areas: Sequence[int]
) -> tuple[tuple[int, int], Array] | None:
    """Find a place that leaves every shape at least half visible; return the corner (y, x) and the fine mask."""
    size = owner.shape[0]
    visible = np.bincount(owner[owner >= 0], minlength=len(full_areas))
    for _ in range(8):
        radius = size * 0.07 * (0.21 / 0.07) ** rng.random()
        angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.88, 1.0)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        loops = [loop * (radius, radius * stretch) @ turn for loop in _OUTLINES[shape]()]
        low, high = loops[0].min(0), loops[0].max(0)
        span = np.ceil(high - low).astype(int) + 2 * _MARGIN
        room = size - span
        if (room < 1).any():
            continue
        x, y = (int(rng.integers(0, r)) for r in room)
        fine = np.zeros((span[1] * _FINE, span[0] * _FINE), np.uint8)
        cv2.fillPoly(fine, [np.round((loop - low + _MARGIN) * _FINE).astype(np.int32) for loop in loops], _FULL)
        under = owner[y : y + span[1], x : x + span[0]][_coverage(fine) >= 0.5]
        hidden = np.bincount(under[under >= 0], minlength=len(full_areas))
        if all(v - h >= 0.5 * f for v, h, f in zip(visible, hidden, full_areas, strict=True)):
            return (y, x), fine
    return None


def _coverage(fine: Array) -> Array:
    """Share of each pixel that a fine mask covers, (H, W) float32 from 0 to 1."""
    shape = (fine.shape[1] // _FINE, fine.shape[0] // _FINE)
    return cv2.resize(fine, shape, interpolation=cv2.INTER_AREA).astype(np.float32) / _FULL


def _paint(rng: np.random.Generator, picture: Array, corner: tuple[int, int], fine: Array) -> None:
    """Paint one shape with shadow, rim, shading and sometimes stripes, in place."""
    alpha = _coverage(fine)
    (y, x), (h, w) = corner, alpha.shape
    colour = _contrasting_colour(rng, picture[y : y + h, x : x + w].mean((0, 1)))
    shadow = cv2.blur((alpha * 255).astype(np.uint8), (5, 5)).astype(np.float32) / 255
    low, right = min(h, picture.shape[0] - y - 2), min(w, picture.shape[1] - x - 2)
    if low > 0 and right > 0:
        picture[y + 2 : y + 2 + low, x + 2 : x + 2 + right] *= 1 - 0.45 * shadow[:low, :right, None]
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * (columns / w - 0.5) + np.sin(angle) * (rows / h - 0.5)).astype(np.float32)
    shade = 1 + rng.uniform(0.1, 0.45) * ramp
    if rng.random() < 0.35:
        period = rng.uniform(3.5, 8)
        wave = np.sin((np.cos(angle) * rows - np.sin(angle) * columns) * (2 * np.pi / period))
        shade += rng.uniform(0.08, 0.2) * np.sign(wave)
    body = colour * shade[..., None]
    thick = max(3, int(0.05 * min(fine.shape)) | 1)
    inside = _coverage(cv2.erode(fine, np.ones((thick, thick), np.uint8)))[..., None]
    body = body * inside + colour * rng.uniform(0.35, 0.75) * (1 - inside)
    region = picture[y : y + h, x : x + w]
    region += (body - region) * alpha[..., None]


def _contrasting_colour(rng: np.random.Generator, ground: Array) -> Array:
    """Draw the colour of a shape, the farthest from its ground of three random ones; RGB float32, 0 to 255."""
    hsv = rng.uniform((0, 0.35, 0.5), (6, 0.95, 1), (3, 3))
    wheel = np.array([5, 3, 1])
    k = (wheel + hsv[:, :1]) % 6
    rgb = hsv[:, 2:] * (1 - hsv[:, 1:2] * np.clip(np.minimum(k, 4 - k), 0, 1)) * 255
    return rgb[np.abs(rgb - ground).sum(1).argmax()].astype(np.float32)


def _noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth noise (size, size), float32 from -1 to 1."""
    grid = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float32) / 127.5 - 1


def _ground(rng: np.random.Generator, size: int) -> Array:
    """Paint the ground: two mixed colours, clouds, grain and sometimes a weave; RGB float32."""
    first = rng.uniform(40, 215) + rng.uniform(-35, 35, 3)
    second = first + rng.uniform(-60, 60, 3)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    mix = 0.6 * _noise(rng, size, 4) + 0.4 * (ramp[None] if rng.random() < 0.5 else ramp[:, None])
    picture = first + (second - first) * (0.5 + 0.5 * mix[..., None])
    texture = rng.uniform(4, 16) * _noise(rng, size, 16) + rng.uniform(2, 9) * _noise(rng, size, size)
    if rng.random() < 0.4:
        rows, columns = np.mgrid[0:size, 0:size]
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 18)
        texture += rng.uniform(4, 12) * np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * (2 * np.pi / period))
    return (picture + texture[..., None]).astype(np.float32)


def _clutter(rng: np.random.Generator, picture: Array) -> None:
    """Draw specks and curved strokes that are no shapes, in place."""
    size = picture.shape[0]
    layer = np.zeros((size * _FINE, size * _FINE), np.uint8)
    for _ in range(int(rng.integers(3, 9))):
        layer[:] = 0
        start, heading = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        bend, length = rng.uniform(-0.25, 0.25), int(rng.integers(2, 14))
        angles = heading + bend * np.arange(length)
        steps = np.stack([np.cos(angles), np.sin(angles)], 1) * (size / 40)
        points = np.round((start + np.cumsum(steps, 0)) * _FINE).astype(np.int32)
        cv2.polylines(layer, [points], False, _FULL, int(rng.integers(3, 9)))
        colour = (picture.mean((0, 1)) + rng.uniform(-70, 70, 3)).astype(np.float32)
        picture += (colour - picture) * (0.8 * _coverage(layer))[..., None]
